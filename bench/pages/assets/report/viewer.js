// pictures side by side: truth, observation and the chosen solvers, with one zoom for all

let scene;
let chosen = new Set();
const lens = { z: 1, x: 0.5, y: 0.5 };

const imageNumber = () => Math.max(0, $("image").selectedIndex);
const drawNumber = () => Math.max(0, $("draw").selectedIndex);

// what can be shown of an image: names, numbers of pictures, and scores
function items() {
  const [truth, observed] = scene.originals[scene.images[imageNumber()]] || [null, null];
  const found = [{ name: "truth", p: truth }, { name: "observed", p: observed }].filter(({ p }) => p !== null);
  for (const solver of scene.solvers.filter(({ solver }) => chosen.has(solver)))
    found.push({
      name: solver.solver,
      seen: recognised(solver, imageNumber(), drawNumber()),
      ...(solver.draws[imageNumber()][drawNumber()] ?? { p: null, status: "no such draw" }),
    });
  return found;
}

// what a draw was recognised as: words, and its distance to the nearest possible image
function recognised(solver, i, d) {
  const own = solver.variants[i];
  return own?.words[d] ? { words: own.words[d], distance: own.distance[d] } : null;
}

function tile(item) {
  const pane = make("div", { className: "pane" });
  const picture = data.pictures[item.p];
  if (picture) {
    pane.style.aspectRatio = `${picture.w} / ${picture.h}`;
    pane.append(show(make("img", { draggable: false }), item.p, `${scene.images[imageNumber()]}, ${item.name}`));
  } else {
    pane.classList.add("none");
    pane.append(item.status && item.status !== "ok" ? item.status : "not embedded");
  }
  const scores = (item.scores ?? []).map((text, i) => {
    const { title, unit } = scene.scores[i];
    return make("span", {}, `${title} `, make("b", {}, text), unit ? ` ${unit}` : "");
  });
  if (item.seen) {
    const { words, distance } = item.seen;
    scores.push(make("span", { className: "seen" }, [...words, `${distance} from a possible image`].join(" · ")));
  }
  return make("figure", { className: "tile" }, pane, make("figcaption", {}, make("strong", {}, item.name), ...scores));
}

function tiles() {
  const shown = items();
  $("tiles").replaceChildren(...shown.map(tile));
  columns();
  views(shown);
  differences(shown);
  link();
  const count = scene.solvers.filter(({ solver }) => chosen.has(solver)).length;
  $("chosen-count").textContent = `Solvers: ${count} of ${scene.solvers.length} shown`;
}

// a link says all of it, also what nobody chose
function link() {
  const said = new URLSearchParams(address);
  said.set("measurement", scene.name);
  said.set("image", chosenText($("image")));
  said.set("draw", String(drawNumber() + 1));
  said.set("solvers", JSON.stringify([...chosen]));
  $("permalink").href = `#?${said}`;
}

// as many columns as fit, and rows of equal length

const SIZES = { small: 140, medium: 230, large: 360 };

function columns() {
  const width = $("tiles").clientWidth;
  const count = Math.max(1, $("tiles").children.length);
  const least = width < 640 && chosenText($("size")) === "medium" ? 140 : SIZES[chosenText($("size"))];
  const most = Math.max(1, Math.floor((width + 12) / (least + 12)));
  $("tiles").style.setProperty("--columns", Math.ceil(count / Math.ceil(count / most)));
}

// differences to the truth, or to one of the solvers

function views(shown) {
  const names = ["pictures", ...shown.filter(({ name, p }) => name !== "observed" && p !== null).map(({ name }) => `difference to ${name}`)];
  const wanted = address.get("view") ?? "pictures";
  fill($("view"), names, Math.max(0, names.indexOf(wanted)));
}

const readPixels = new Map();

async function pixels(src) {
  if (!readPixels.has(src)) readPixels.set(src, decoded(src));
  return readPixels.get(src);
}

async function decoded(src) {
  const img = make("img", { src });
  await img.decode();
  const canvas = make("canvas", { width: img.naturalWidth, height: img.naturalHeight });
  const context = canvas.getContext("2d");
  context.drawImage(img, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

async function differences(shown) {
  const name = chosenText($("view")).replace(/^difference to /, "");
  const reference = shown.find((item) => item.name === name);
  $("difference-legend").hidden = !reference;
  if (!reference) return;
  const panes = [...$("tiles").querySelectorAll(".pane")];
  const [base, ramp] = await Promise.all([pixels(data.pictures[reference.p].src), pixels(data.ramp)]);
  await Promise.all(shown.map(async (item, i) => {
    if (item === reference || item.p === null || item.p === undefined) return;
    const other = await pixels(data.pictures[item.p].src);
    // an observation may be larger than the truth, or hold stripes that are no pixels
    if (item.name === "observed" || other.width !== base.width || other.height !== base.height) return;
    const canvas = make("canvas", { className: isCrisp(item.p) ? "crisp" : "", role: "img", ariaLabel: `${item.name}, difference to ${name}` });
    drawDifference(canvas, base, other, ramp);
    if (panes[i].isConnected) panes[i].replaceChildren(canvas);
  }));
}

function drawDifference(canvas, base, other, ramp) {
  canvas.width = base.width;
  canvas.height = base.height;
  const context = canvas.getContext("2d");
  const out = context.createImageData(base.width, base.height);
  for (let k = 0; k < out.data.length; k += 4) {
    let sum = 0;
    for (let c = 0; c < 3; c++) sum += Math.abs(base.data[k + c] - other.data[k + c]);
    const share = Math.min(1, sum / 3 / 127.5); // images are in [-1, 1]
    const from = 4 * Math.round(share * (ramp.width - 1));
    for (let c = 0; c < 3; c++) out.data[k + c] = ramp.data[from + c];
    out.data[k + 3] = 255;
  }
  context.putImageData(out, 0, 0);
}

// one zoom for all: the point (x, y) of the image, 0 to 1, is in the middle

function zoomTo(z, x = lens.x, y = lens.y) {
  lens.z = Math.min(16, Math.max(1, z));
  const edge = 0.5 / lens.z;
  lens.x = Math.min(1 - edge, Math.max(edge, x));
  lens.y = Math.min(1 - edge, Math.max(edge, y));
  const style = $("tiles").style;
  style.setProperty("--z", lens.z);
  style.setProperty("--tx", `${100 * (0.5 - lens.x * lens.z)}%`);
  style.setProperty("--ty", `${100 * (0.5 - lens.y * lens.z)}%`);
  $("tiles").classList.toggle("zoomed", lens.z > 1);
  $("zoom-level").textContent = `${Math.round(10 * lens.z) / 10}×`;
  remember("zoom", lens.z > 1 ? [lens.z, lens.x, lens.y].map((v) => v.toFixed(3)).join(",") : "");
  link();
}

// the point of the image under the pointer
function under(event, pane) {
  const box = pane.getBoundingClientRect();
  const point = (client, from, size, middle) => middle + ((client - from) / size - 0.5) / lens.z;
  return [point(event.clientX, box.left, box.width, lens.x), point(event.clientY, box.top, box.height, lens.y)];
}

// zoom so that the point stays where it is
function zoomAround(z, point) {
  const kept = Math.min(16, Math.max(1, z));
  const [x, y] = point.map((p, i) => p + ((i ? lens.y : lens.x) - p) * (lens.z / kept));
  zoomTo(kept, x, y);
}

let grip = null;
$("tiles").addEventListener("pointerdown", (event) => {
  const pane = event.target.closest(".pane");
  if (pane && event.button === 0) grip = { pane, x: event.clientX, y: event.clientY, moved: false };
});
$("tiles").addEventListener("pointermove", (event) => {
  const pane = event.target.closest(".pane");
  if (pane) {
    const box = pane.getBoundingClientRect();
    $("tiles").style.setProperty("--px", `${(100 * (event.clientX - box.left)) / box.width}%`);
    $("tiles").style.setProperty("--py", `${(100 * (event.clientY - box.top)) / box.height}%`);
  }
  $("tiles").classList.toggle("pointed", Boolean(pane) && event.pointerType === "mouse");
  if (!grip || !event.buttons) return;
  const [dx, dy] = [event.clientX - grip.x, event.clientY - grip.y];
  if (!grip.moved && Math.hypot(dx, dy) < 4) return;
  const box = grip.pane.getBoundingClientRect();
  zoomTo(lens.z, lens.x - dx / box.width / lens.z, lens.y - dy / box.height / lens.z);
  grip = { ...grip, x: event.clientX, y: event.clientY, moved: true };
});
$("tiles").addEventListener("pointerleave", () => $("tiles").classList.remove("pointed"));
document.addEventListener("pointerup", (event) => {
  const clicked = grip && !grip.moved && grip.pane.contains(event.target);
  if (clicked && lens.z >= 8) zoomTo(1);
  else if (clicked) zoomAround(2 * lens.z, under(event, grip.pane));
  grip = null;
});
$("tiles").addEventListener("wheel", (event) => {
  const pane = event.target.closest(".pane");
  if (!pane || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  zoomAround(lens.z * Math.exp(-event.deltaY / 200), under(event, pane));
}, { passive: false });

// image, draw, solvers, view

function step(select, by) {
  const count = select.options.length;
  if (!count) return;
  select.selectedIndex = (select.selectedIndex + by + count) % count;
  select.dispatchEvent(new Event("change"));
}

function toggleDifference() {
  $("view").selectedIndex = $("view").selectedIndex > 0 ? 0 : Math.min(1, $("view").options.length - 1);
  $("view").dispatchEvent(new Event("change"));
}

const KEYS = {
  ArrowRight: () => step($("image"), 1),
  ArrowLeft: () => step($("image"), -1),
  ArrowDown: () => step($("draw"), 1),
  ArrowUp: () => step($("draw"), -1),
  "+": () => zoomTo(1.5 * lens.z),
  "=": () => zoomTo(1.5 * lens.z),
  "-": () => zoomTo(lens.z / 1.5),
  0: () => zoomTo(1),
  d: toggleDifference,
};
$("tiles").addEventListener("keydown", (event) => {
  if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  KEYS[event.key]();
});

$("image-back").addEventListener("click", () => step($("image"), -1));
$("image-next").addEventListener("click", () => step($("image"), 1));
$("zoom-in").addEventListener("click", () => zoomTo(1.5 * lens.z));
$("zoom-out").addEventListener("click", () => zoomTo(lens.z / 1.5));
$("zoom-reset").addEventListener("click", () => zoomTo(1));
$("image").addEventListener("change", () => {
  remember("image", chosenText($("image")));
  chooseImage();
});
$("draw").addEventListener("change", () => {
  remember("draw", drawNumber() ? String(drawNumber() + 1) : "");
  tiles();
});
$("size").addEventListener("change", () => {
  const name = chosenText($("size"));
  remember("size", name === "medium" ? "" : name);
  columns();
});
$("view").addEventListener("change", () => {
  remember("view", $("view").selectedIndex > 0 ? chosenText($("view")) : "");
  tiles();
});

function chooseSolvers(names) {
  chosen = new Set(names);
  // names may hold any character, so the list is JSON
  remember("solvers", JSON.stringify([...chosen]));
  chips();
  tiles();
  cases();
}

const firstSolvers = () => scene.solvers.slice(0, 4).map(({ solver }) => solver);
$("choose-first").addEventListener("click", () => chooseSolvers(firstSolvers()));
$("choose-all").addEventListener("click", () => chooseSolvers(scene.solvers.map(({ solver }) => solver)));
$("choose-none").addEventListener("click", () => chooseSolvers([]));

function chips() {
  $("solvers").replaceChildren(...scene.solvers.map(({ solver }) => {
    const box = make("input", { type: "checkbox", checked: chosen.has(solver) });
    box.addEventListener("change", () => {
      const names = new Set(chosen);
      if (box.checked) names.add(solver);
      else names.delete(solver);
      chosen = names;
      remember("solvers", JSON.stringify([...chosen]));
      tiles();
      cases();
    });
    return make("label", { className: "chip" }, box, solver);
  }));
}

function restoreViewer() {
  let names = null;
  try {
    names = JSON.parse(address.get("solvers") ?? "null");
  } catch {
    names = null; // the address was cut off
  }
  chosen = new Set(Array.isArray(names) ? names : firstSolvers());
  chips();
  const draws = Math.max(1, ...scene.solvers.map((solver) => Math.max(0, ...solver.draws.map((draws) => draws.length))));
  const draw = Number(address.get("draw") ?? 1) - 1;
  fill($("draw"), Array.from({ length: draws }, (_, d) => `${d + 1}`), draw >= 0 && draw < draws ? draw : 0);
  const size = Object.keys(SIZES).indexOf(address.get("size") ?? "medium");
  fill($("size"), Object.keys(SIZES), size < 0 ? 1 : size);
  const [z, x, y] = (address.get("zoom") ?? "").split(",").map(Number);
  zoomTo(z >= 1 ? z : 1, Number.isFinite(x) ? x : 0.5, Number.isFinite(y) ? y : 0.5);
}

new ResizeObserver(columns).observe($("tiles"));
