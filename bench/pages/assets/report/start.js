// one measurement at a time

function choose(number) {
  scene = data.scenes[number];
  $("scene").value = String(number);
  document.querySelectorAll("[data-scene]:not(tr)").forEach((node) => (node.hidden = node.dataset.scene !== String(number)));
  $("note").textContent = scene.note;
  $("note").hidden = !scene.note;
  $("largest").textContent = scene.largest;
  fill($("image"), scene.images, Math.max(0, scene.images.indexOf(address.get("image"))));
  fill($("solver"), scene.solvers.map((solver) => solver.solver));
  fill($("metric"), [...new Set(scene.cases.map((line) => line.metric))]);
  restoreViewer();
  chooseImage();
  mosaic();
  cases();
  if ($("fit-list")) fits();
}

function chooseImage() {
  tiles();
  sidesOfImage();
  byImage();
}

function restore() {
  readAddress();
  restoreBoard();
  choose(sceneNumber(address.get("measurement")) ?? 0);
}

// the solvers stand everywhere as in the answer, and those without a place after them
const placeOf = ({ solver }) => (data.order.includes(solver) ? data.order.indexOf(solver) : data.order.length);
data.scenes.forEach(({ solvers }) => solvers.sort((a, b) => placeOf(a) - placeOf(b)));

document.querySelectorAll(".ramp").forEach((img) => (img.src = data.ramp));
$("chooser").open = Math.max(...data.scenes.map(({ solvers }) => solvers.length)) <= 12;
$("scene").addEventListener("change", (event) => {
  remember("measurement", chosenText(event.target));
  choose(Number(event.target.value));
});
$("scene").disabled = data.scenes.length < 2;
addEventListener("hashchange", restore);
restore();
if (["image", "solvers", "view", "zoom"].some((name) => address.has(name))) $("viewer").scrollIntoView();
