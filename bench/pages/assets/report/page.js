const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function fill(select, options, chosen = 0) {
  select.replaceChildren(...options.map((text, i) => make("option", { value: String(i), selected: i === chosen }, text)));
  select.disabled = options.length < 2;
}

const chosenText = (select) => select.selectedOptions[0]?.textContent ?? "";

// the address says what is shown: #?image=...&view=...; a name stands in it only if it was chosen

let address = new URLSearchParams();
let writing = 0;

function readAddress() {
  address = new URLSearchParams(location.hash.startsWith("#?") ? location.hash.slice(2) : "");
}

function remember(name, value) {
  if (value === "") address.delete(name);
  else address.set(name, value);
  // browsers refuse many changes of the address within a second
  clearTimeout(writing);
  writing = setTimeout(() => {
    const hash = address.size ? `#?${address}` : "#";
    if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
  }, 120);
}

// links within the page keep the address
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  if (link.id === "permalink") return void history.replaceState(null, "", link.hash);
  const target = document.querySelector(link.hash);
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
  target.scrollIntoView();
});

// pictures: each is kept once and shown in many places

function show(img, number, alt) {
  const picture = data.pictures[number];
  img.alt = alt;
  img.classList.toggle("crisp", isCrisp(number));
  if (picture) img.src = picture.src;
  else img.removeAttribute("src");
  return img;
}

function isCrisp(number) {
  const picture = data.pictures[number];
  return picture !== undefined && Math.max(picture.w, picture.h) <= 96;
}

function thumb(number, caption, kind = "", status = "", below = "") {
  const score = below ? [make("small", {}, below)] : [];
  if (number === null || number === undefined) {
    const text = status && status !== "ok" ? status : "–";
    return make("span", { className: "none", role: "img", ariaLabel: `${caption}: ${text}`, title: caption }, text);
  }
  const picture = data.pictures[number];
  const img = show(make("img", { decoding: "async", width: picture.w, height: picture.h }), number, "");
  const button = make("button", { type: "button", className: `thumb ${kind}`, ariaLabel: caption, title: caption }, img, ...score);
  button.dataset.number = number;
  return button;
}

// one tab stop per group of pictures; arrow keys move within it
function group(container) {
  const thumbs = [...container.querySelectorAll(".thumb")];
  thumbs.forEach((button, i) => (button.tabIndex = i ? -1 : 0));
  container.onkeydown = (event) => {
    const all = [...container.querySelectorAll(".thumb")];
    const here = all.indexOf(event.target);
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: all.length - 1 }[event.key];
    if (here < 0 || to === undefined || !all[to]) return;
    event.preventDefault();
    all.forEach((button) => (button.tabIndex = -1));
    all[to].tabIndex = 0;
    all[to].focus();
  };
  container.onclick = (event) => {
    const button = event.target.closest(".thumb");
    if (button) enlarge([...container.querySelectorAll(".thumb")], button);
  };
}

// enlarged: Escape closes (the dialog's own), arrow keys go on

let gallery = [];
let place = 0;

function enlarge(thumbs, button) {
  gallery = thumbs;
  turn(thumbs.indexOf(button));
  $("zoom").showModal();
}

function turn(to) {
  place = (to + gallery.length) % gallery.length;
  const caption = gallery[place].getAttribute("aria-label");
  const picture = data.pictures[gallery[place].dataset.number];
  const score = gallery[place].querySelector("small")?.textContent.replaceAll("\n", " · ");
  show($("zoom-picture"), gallery[place].dataset.number, caption);
  $("zoom-title").textContent = `${caption} (${picture.w} × ${picture.h})${score ? ` · ${score}` : ""}`;
  $("zoom-full").hidden = !picture.full;
  if (picture.full) $("zoom-full").href = picture.full;
}

$("zoom-back").addEventListener("click", () => turn(place - 1));
$("zoom-next").addEventListener("click", () => turn(place + 1));
$("zoom").addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") turn(place + 1);
  if (event.key === "ArrowLeft") turn(place - 1);
});
$("zoom").addEventListener("click", (event) => event.target === $("zoom") && $("zoom").close());
$("zoom").addEventListener("close", () => gallery[place]?.focus());

// explanations of headings, for mouse, finger and keyboard

function explain(event) {
  const node = event.target.closest?.("[data-words]");
  $("words").hidden = !node;
  if (!node) return;
  $("words").textContent = node.dataset.words;
  const box = node.getBoundingClientRect();
  const width = Math.min(320, innerWidth - 16);
  $("words").style.width = `${width}px`;
  $("words").style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  const below = box.bottom + 6;
  const high = $("words").offsetHeight;
  $("words").style.top = `${below + high > innerHeight ? Math.max(4, box.top - high - 6) : below}px`;
}

document.querySelectorAll("[data-words]").forEach((node) => node.setAttribute("aria-description", node.dataset.words));
document.addEventListener("pointerover", explain);
document.addEventListener("focusin", explain);
document.addEventListener("scroll", () => ($("words").hidden = true), { passive: true, capture: true });
document.addEventListener("keydown", (event) => event.key === "Escape" && ($("words").hidden = true));
