"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const fields = ["search", "data", "mask", "prior", "level"];

  // the filters are kept in the address, so that a view can be linked to

  function restore() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of fields) if (state.has(name)) $(name).value = state.get(name);
    $("all-columns").checked = state.has("all");
    $("old").checked = state.has("old");
  }

  function keep() {
    const state = new URLSearchParams();
    for (const name of fields) if ($(name).value) state.set(name, $(name).value);
    if ($("all-columns").checked) state.set("all", "1");
    if ($("old").checked) state.set("old", "1");
    history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
  }

  function fits(row, task, words) {
    const text = `${row.textContent} ${task.querySelector("h2").textContent}`.toLowerCase();
    const level = $("level").value;
    return words.every((word) => text.includes(word))
      && (!$("prior").value || row.dataset.prior === $("prior").value)
      && (!level || row.dataset.level === "bitwise" || (level === "again" && row.dataset.level === "tolerance"));
  }

  function filter() {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    $("tables").classList.toggle("all", $("all-columns").checked);
    $("tables").classList.toggle("with-old", $("old").checked);
    let shown = 0, all = 0;
    for (const task of document.querySelectorAll(".task")) {
      const here = ["data", "mask"].every((name) => !$(name).value || task.dataset[name] === $(name).value);
      let some = 0;
      for (const part of task.querySelectorAll(".version")) {
        const old = part.classList.contains("old") && !$("old").checked;
        let mine = 0;
        for (const row of part.querySelectorAll("tbody tr")) {
          row.hidden = !here || !fits(row, task, words);
          mine += !row.hidden;
          all += !old;
        }
        part.hidden = !mine;
        some += old ? 0 : mine;
      }
      task.hidden = !some;
      shown += some;
    }
    $("count").textContent = shown === all ? `${all} lines` : `${shown} of ${all} lines`;
    $("nothing").hidden = shown > 0;
    keep();
  }

  function sortBy(table, column) {
    const headings = [...table.tHead.rows[0].cells], heading = headings[column];
    // the best comes first at the first click, the worst at the second
    const before = heading.getAttribute("aria-sort");
    const down = before ? before === "ascending" : heading.dataset.best === "up";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sign = down ? -1 : 1;
    const key = (row) => row.cells[column].dataset;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      if (!("n" in key(a))) return sign * key(a).v.localeCompare(key(b).v, "en", { numeric: true });
      const [x, y] = [a, b].map((row) => (key(row).n === "" ? NaN : Number(key(row).n)));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return x === y ? 0 : sign * (x < y ? -1 : 1);
    });
    table.tBodies[0].append(...rows);
  }

  for (const table of document.querySelectorAll("table.board")) {
    [...table.tHead.rows[0].cells].forEach((heading, column) =>
      heading.firstElementChild.addEventListener("click", () => sortBy(table, column)));
  }
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  restore();
  filter();
})();
