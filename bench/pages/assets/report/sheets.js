// before and after

let sides = [];

function sidesOfImage() {
  const i = imageNumber();
  const [truth, observed] = scene.originals[scene.images[i]] || [null, null];
  sides = [["truth", truth], ["observed", observed]];
  for (const solver of scene.solvers)
    solver.draws[i].forEach((draw, d) => sides.push([`${solver.solver}, draw ${d + 1}`, draw.p]));
  sides = sides.filter(([, number]) => number !== null);
  const names = sides.map(([name]) => name);
  const kept = (select, other) => {
    const before = names.indexOf(select.selectedOptions[0]?.textContent);
    return before >= 0 ? before : Math.max(names.indexOf(other), 0);
  };
  fill($("left"), names, kept($("left"), "observed"));
  fill($("right"), names, kept($("right"), names.find((name) => !["truth", "observed"].includes(name))));
  chooseSides();
}

function chooseSides() {
  const pairs = [["left", "before"], ["right", "after"]];
  for (const [side, id] of pairs) {
    const [name, number] = sides[Number($(side).value)] || ["nothing to show", null];
    show($(id), number, name);
    $(`${side}-name`).textContent = name;
  }
  const picture = data.pictures[(sides[0] || [])[1]];
  if (picture) document.querySelector(".stage").style.aspectRatio = `${picture.w} / ${picture.h}`;
}

function cut() {
  $("slider").style.setProperty("--cut", `${$("position").value}%`);
}

const stage = document.querySelector(".stage");
function drag(event) {
  if (event.type === "pointermove" && !event.buttons) return;
  const box = stage.getBoundingClientRect();
  $("position").value = String((100 * (event.clientX - box.left)) / box.width);
  cut();
}
stage.addEventListener("pointerdown", (event) => {
  stage.setPointerCapture(event.pointerId);
  drag(event);
});
stage.addEventListener("pointermove", drag);
$("position").addEventListener("input", cut);
$("left").addEventListener("change", chooseSides);
$("right").addEventListener("change", chooseSides);

// contact sheets, mosaic, cases

function below(scores) {
  return scores ? `${scores[0]}` : "";
}

function byImage() {
  const i = imageNumber();
  const image = scene.images[i];
  const [truth, observed] = scene.originals[image] || [null, null];
  const originals = [thumb(truth, `${image}, truth`), thumb(observed, `${image}, observed`)];
  const blocks = [block("truth, observed", originals)];
  for (const solver of scene.solvers) {
    const strip = solver.draws[i].map(({ p, status, scores }, d) =>
      thumb(p, `${image}, ${solver.solver}, draw ${d + 1}`, "", status, [below(scores), ...lines(solver, i, d)].join("\n")));
    if (solver.std[i] !== null) strip.push(thumb(solver.std[i], `${image}, ${solver.solver}, standard deviation`, "std", "", "std"));
    blocks.push(block(solver.solver, strip));
  }
  const sheet = make("div", { className: "sheet" }, make("h4", {}, image), make("div", { className: "blocks" }, ...blocks));
  group(sheet);
  $("by-image").replaceChildren(sheet);
  variants(i);
}

// under a small picture stand the three most uncertain components
function lines(solver, i, d) {
  const seen = recognised(solver, i, d);
  return seen ? [...seen.words.slice(0, 3), `distance ${seen.distance}`] : [];
}

// what draws were recognised as: a table per component, a column per solver, a line per variant

function variants(i) {
  const found = scene.variants[i];
  $("variants").hidden = !found;
  if (!found) return;
  const seen = scene.solvers.map((solver) => ({ name: solver.solver, own: solver.variants[i] })).filter(({ own }) => own);
  const tables = found.components.map((component, k) => variantTable(component, seen.map(({ name, own }) => ({ name, draws: own.draws, shares: own.shares[k] }))));
  $("variant-tables").replaceChildren(...tables);
  $("variant-words").hidden = !tables.length;
  $("variant-note").textContent = tables.length ? leftOut(found.more) : noVariants(seen);
}

const leftOut = (more) => (more ? `${more} less uncertain component${more > 1 ? "s are" : " is"} left out.` : "");

function noVariants(seen) {
  const listed = seen.some(({ own }) => own.distance.some((text) => text !== "–"));
  return listed ? "All that is hidden has one possible variant." : "There are too many possible images to list, so no draw was recognised.";
}

function variantTable({ name, variants, posterior }, solvers) {
  const head = (text, ...below) => make("th", { scope: "col" }, text, ...below);
  const columns = solvers.map(({ name, draws }) => head(name, make("small", {}, `${draws} draw${draws > 1 ? "s" : ""}`)));
  const rows = variants.map((variant, v) =>
    make("tr", {}, make("th", { scope: "row" }, variant), make("td", {}, percent(posterior[v]), bar(posterior[v], "expected")),
      ...solvers.map(({ shares }) => shareCell(shares?.[v], posterior[v]))));
  const table = make("table", { className: "shares" }, make("caption", {}, name),
    make("thead", {}, make("tr", {}, head("variant"), head("posterior"), ...columns)),
    make("tbody", {}, ...rows));
  return make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Variants of ${name}, scrolls sideways` }, table);
}

function shareCell(share, expected) {
  return share === undefined ? make("td", {}, "–") : make("td", {}, percent(share), bar(share, "found"), bar(expected, "expected"));
}

function bar(value, kind) {
  const node = make("span", { className: `bar-line ${kind}`, ariaHidden: "true" });
  node.style.width = `${100 * value}%`;
  return node;
}

const percent = (value) => (value > 0 && value < 0.005 ? "< 1 %" : `${Math.round(100 * value)} %`);

function block(name, strip) {
  return make("div", { className: "block" }, make("p", {}, name), make("div", { className: "strip" }, ...strip));
}

function mosaic() {
  const solver = scene.solvers[Number($("solver").value)];
  const blocks = solver.draws.map((draws, i) =>
    block(scene.images[i], draws.map(({ p, status, scores }, d) =>
      thumb(p, `${scene.images[i]}, ${solver.solver}, draw ${d + 1}`, "", status, below(scores)))));
  const grid = make("div", { className: "blocks" }, ...blocks);
  $("mosaic").replaceChildren(grid);
  group(grid);
}

function cases() {
  const metric = $("metric").selectedOptions[0]?.textContent;
  $("case-list").replaceChildren(
    ...scene.cases.filter((line) => line.metric === metric && chosen.has(line.solver)).sort((a, b) => placeOf(a) - placeOf(b)).map((line) => {
      const node = make("div", { className: "case" }, make("h4", {}, line.solver));
      for (const { case: name, image, value, draw, picture } of line.cases) {
        const [truth, observed] = scene.originals[image] || [null, null];
        const strip = make("div", { className: "strip" },
          thumb(truth, `${image}, truth`),
          thumb(observed, `${image}, observed`),
          thumb(picture, `${image}, ${line.solver}, draw ${draw + 1}, ${name} with ${value}`));
        node.append(make("div", {}, make("p", {}, `${name} · ${value} · ${image}`), strip));
      }
      group(node);
      return node;
    }),
  );
}

function fits() {
  const nodes = [...new Set(scene.fits.map((line) => line.solver))].map((solver) => {
    const blocks = [];
    for (const { image, steps } of scene.fits.filter((line) => line.solver === solver)) {
      const step = (p, words, below) =>
        make("span", { className: "step" }, thumb(p, `${image}, ${words}`), make("small", {}, below));
      const strip = steps.map(({ after, p }) => step(p, `${solver}, after ${after} iterations`, after));
      strip.unshift(step((scene.originals[image] || [null, null])[1], "observed", "observed"));
      blocks.push(block(image, strip));
    }
    const sheet = make("div", { className: "sheet" }, make("h4", {}, solver), make("div", { className: "blocks" }, ...blocks));
    group(sheet);
    return sheet;
  });
  $("fit-list").replaceChildren(...nodes);
}

$("solver").addEventListener("change", mosaic);
$("metric").addEventListener("change", cases);
