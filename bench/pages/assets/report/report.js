"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);

  function make(tag, properties = {}, ...children) {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  }

  // leaderboard: sort by a heading, filter by words and by measurement

  const body = $("board").tBodies[0];
  const headings = [...$("board").tHead.rows[0].cells];

  function sortBy(column) {
    const heading = headings[column];
    // the best comes first at the first click, the worst at the second
    const before = heading.getAttribute("aria-sort");
    const down = before ? before === "ascending" : heading.dataset.best === "up";
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

  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => sortBy(column)));
  $("filter").addEventListener("input", filter);
  $("board-scene")?.addEventListener("change", filter);
  $("all-columns")?.addEventListener("change", (event) => $("board").classList.toggle("all", event.target.checked));

  // pictures: each is kept once and shown in many places

  function show(img, number, alt) {
    const picture = data.pictures[number];
    img.alt = alt;
    img.classList.toggle("crisp", picture !== undefined && Math.max(picture.w, picture.h) <= 96);
    if (picture) img.src = picture.src;
    else img.removeAttribute("src");
    return img;
  }

  function thumb(number, caption, kind = "", status = "") {
    if (number === null || number === undefined) {
      const text = status && status !== "ok" ? status : "–";
      return make("span", { className: "none", role: "img", ariaLabel: `${caption}: ${text}`, title: caption }, text);
    }
    const picture = data.pictures[number];
    const img = show(make("img", { loading: "lazy", decoding: "async", width: picture.w, height: picture.h }), number, "");
    const button = make("button", { type: "button", className: `thumb ${kind}`, ariaLabel: caption, title: caption }, img);
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
    show($("zoom-picture"), gallery[place].dataset.number, caption);
    $("zoom-title").textContent = `${caption} (${picture.w} × ${picture.h})`;
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

  // one measurement at a time

  let scene;

  function fill(select, options, chosen = 0) {
    select.replaceChildren(...options.map((text, i) => make("option", { value: String(i), selected: i === chosen }, text)));
    select.disabled = options.length < 2;
  }

  function choose(number) {
    scene = data.scenes[number];
    document.querySelectorAll("figure[data-scene]").forEach((f) => (f.hidden = f.dataset.scene !== String(number)));
    $("note").textContent = scene.note;
    $("note").hidden = !scene.note;
    $("largest").textContent = scene.largest;
    fill($("image"), scene.images);
    fill($("solver"), scene.solvers.map((solver) => solver.solver));
    fill($("metric"), [...new Set(scene.cases.map((line) => line.metric))]);
    chooseImage();
    byImage();
    mosaic();
    cases();
    if ($("fit-list")) fits();
  }

  // before and after

  let sides = [];

  function chooseImage() {
    const i = Number($("image").value) || 0;
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

  // contact sheets, mosaic, cases

  function byImage() {
    $("by-image").replaceChildren(
      ...scene.images.map((image, i) => {
        const [truth, observed] = scene.originals[image] || [null, null];
        const rows = make("div", { className: "rows" });
        const originals = [thumb(truth, `${image}, truth`), thumb(observed, `${image}, observed`)];
        rows.append(make("p", {}, "truth, observed"), make("div", { className: "strip" }, ...originals));
        for (const solver of scene.solvers) {
          const strip = solver.draws[i].map(({ p, status }, d) =>
            thumb(p, `${image}, ${solver.solver}, draw ${d + 1}`, "", status));
          if (solver.std[i] !== null) strip.push(thumb(solver.std[i], `${image}, ${solver.solver}, standard deviation`, "std"));
          rows.append(make("p", {}, solver.solver), make("div", { className: "strip" }, ...strip));
        }
        const sheet = make("div", { className: "sheet" }, make("h4", {}, image), rows);
        group(sheet);
        return sheet;
      }),
    );
  }

  function mosaic() {
    const solver = scene.solvers[Number($("solver").value)];
    const grid = make("div", { className: "mosaic" });
    grid.style.gridTemplateColumns = `repeat(${Math.max(1, ...solver.draws.map((draws) => draws.length))}, max-content)`;
    solver.draws.forEach((draws, i) =>
      draws.forEach(({ p, status }, d) =>
        grid.append(thumb(p, `${scene.images[i]}, ${solver.solver}, draw ${d + 1}`, "", status))));
    $("mosaic").replaceChildren(grid);
    group(grid);
  }

  function cases() {
    const metric = $("metric").selectedOptions[0]?.textContent;
    $("case-list").replaceChildren(
      ...scene.cases.filter((line) => line.metric === metric).map((line) => {
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
      const rows = make("div", { className: "rows" });
      for (const { image, steps } of scene.fits.filter((line) => line.solver === solver)) {
        const step = (p, words, below) =>
          make("span", { className: "step" }, thumb(p, `${image}, ${words}`), make("small", {}, below));
        const strip = steps.map(({ after, p }) => step(p, `${solver}, after ${after} iterations`, after));
        strip.unshift(step((scene.originals[image] || [null, null])[1], "observed", "observed"));
        rows.append(make("p", {}, image), make("div", { className: "strip" }, ...strip));
      }
      const sheet = make("div", { className: "sheet" }, make("h4", {}, solver), rows);
      group(sheet);
      return sheet;
    });
    $("fit-list").replaceChildren(...nodes);
  }

  $("ramp").src = data.ramp;
  $("scene").addEventListener("change", (event) => choose(Number(event.target.value)));
  $("scene").disabled = data.scenes.length < 2;
  $("image").addEventListener("change", chooseImage);
  $("left").addEventListener("change", chooseSides);
  $("right").addEventListener("change", chooseSides);
  $("solver").addEventListener("change", mosaic);
  $("metric").addEventListener("change", cases);
  choose(0);
})();
