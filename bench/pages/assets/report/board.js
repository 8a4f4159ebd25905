// the answer: one metric at a time

function rankedBy(metric) {
  document.querySelectorAll(".answer").forEach((node) => (node.hidden = node.dataset.metric !== metric));
}

$("ranked-by")?.addEventListener("change", (event) => {
  rankedBy(event.target.value);
  remember("rank", event.target.selectedIndex ? event.target.value : "");
});

// the table: sort by a heading, filter by words and by measurement

const body = $("board").tBodies[0];
const headings = [...$("board").tHead.rows[0].cells];

function sortBy(column, wanted = "") {
  const heading = headings[column];
  // the best comes first at the first click, the worst at the second
  const before = heading.getAttribute("aria-sort");
  const down = wanted ? wanted === "descending" : before ? before === "ascending" : heading.dataset.best === "up";
  headings.forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const sign = down ? -1 : 1;
  const keyed = [...body.rows].map((row) => {
    const cell = row.cells[column];
    const text = "n" in cell.dataset ? cell.dataset.n : cell.dataset.v;
    return { row, text, value: text === "" ? NaN : Number(text) };
  });
  const numeric = keyed.every(({ text, value }) => text === "" || !Number.isNaN(value));
  keyed.sort((a, b) => {
    if (!numeric) return sign * a.text.localeCompare(b.text, "en", { numeric: true });
    if (Number.isNaN(a.value) || Number.isNaN(b.value)) return Number.isNaN(a.value) - Number.isNaN(b.value);
    return a.value === b.value ? 0 : sign * (a.value < b.value ? -1 : 1);
  });
  body.append(...keyed.map(({ row }) => row));
  return `${heading.textContent.trim()} ${down ? "descending" : "ascending"}`;
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const scene = $("board-scene") ? $("board-scene").value : "";
  let shown = 0;
  for (const row of body.rows) {
    const names = [...row.cells].filter((cell) => "v" in cell.dataset).map((cell) => cell.dataset.v);
    const text = names.join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word)) || (scene !== "" && row.dataset.scene !== scene);
    shown += !row.hidden;
  }
  $("count").textContent = shown === body.rows.length ? `${shown} lines` : `${shown} of ${body.rows.length} lines`;
}

headings.forEach((heading, column) =>
  heading.firstElementChild.addEventListener("click", () => remember("sort", sortBy(column))));
$("filter").addEventListener("input", () => {
  filter();
  remember("filter", $("filter").value);
});
$("board-scene")?.addEventListener("change", (event) => {
  filter();
  remember("table", event.target.value === "" ? "" : chosenText(event.target));
});
$("all-columns")?.addEventListener("change", (event) => {
  $("board").classList.toggle("all", event.target.checked);
  remember("columns", event.target.checked ? "all" : "");
});

function restoreBoard() {
  if ($("ranked-by")) {
    const metric = address.get("rank");
    if ([...$("ranked-by").options].some((option) => option.value === metric)) $("ranked-by").value = metric;
    rankedBy($("ranked-by").value);
  }
  $("filter").value = address.get("filter") ?? "";
  if ($("board-scene")) $("board-scene").value = String(sceneNumber(address.get("table")) ?? "");
  if ($("all-columns")) $("all-columns").checked = address.get("columns") === "all";
  $("board").classList.toggle("all", address.get("columns") === "all");
  const [, name, order] = (address.get("sort") ?? "").match(/^(.*) (ascending|descending)$/) ?? [];
  const column = headings.findIndex((heading) => heading.textContent.trim() === name);
  if (column >= 0) sortBy(column, order);
  filter();
}

// the number of a measurement by its name; null if there is none
function sceneNumber(name) {
  const number = data.scenes.findIndex((scene) => scene.name === name);
  return number < 0 ? null : number;
}
