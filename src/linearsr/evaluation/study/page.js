"use strict";

// ---- the order of trials ----

// xorshift32 (Marsaglia 2003): the order must follow from the seed in every browser
function generator(seed) {
  let state = seed >>> 0 || 1;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return Math.floor(((state >>> 0) / 2 ** 32) * below);
  };
}

function shuffled(items, random) {
  const copy = items.slice();
  for (let last = copy.length - 1; last > 0; last--) {
    const other = random(last + 1);
    [copy[last], copy[other]] = [copy[other], copy[last]];
  }
  return copy;
}

// pools: for each pair of methods its comparisons, {scene, results: [id, id]}
function makeTrials(study, seed) {
  const random = generator(seed);
  for (let warm = 0; warm < 20; warm++) random(2);
  const pools = shuffled(study.pools, random).map((pool) => shuffled(pool, random));
  const deepest = Math.max(...pools.map((pool) => pool.length));
  const drawn = [];
  for (let depth = 0; depth < deepest; depth++)
    for (const pool of pools) if (depth < pool.length && drawn.length < study.trials) drawn.push(pool[depth]);
  const trials = shuffled(drawn, random).map(({ scene, results }) => {
    const [left, right] = random(2) ? results : results.slice().reverse();
    return { scene, left, right, repeats: null };
  });
  const half = Math.ceil(trials.length / 2);
  const again = shuffled([...Array(half).keys()], random).slice(0, study.repeats);
  for (const first of again) {
    const { scene, left, right } = trials[first];
    // never right after the first time, and only behind the first half: its numbers stay
    const earliest = Math.max(half, Math.min(first + 2, trials.length));
    const place = earliest + random(trials.length - earliest + 1);
    trials.splice(place, 0, { scene, left: right, right: left, repeats: first });
  }
  return trials;
}

// ---- what is kept: seed and answers ----

const study = JSON.parse(document.getElementById("data").textContent);
const shelf = "study-" + study.study;
const Q = study.questions.length;
let state, trials, keeps = true;

function fresh() {
  const [seed, first, second] = crypto.getRandomValues(new Uint32Array(3));
  const hex = (number) => number.toString(16).padStart(8, "0");
  return { seed, participant: hex(first) + hex(second), started: null, finished: null, answers: [] };
}

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(shelf));
    const whole = kept.answers.every((answer) => ["left", "none", "right"].includes(answer.choice));
    if (whole && Number.isInteger(kept.seed) && typeof kept.participant === "string") return kept;
  } catch { /* nothing there, refused or damaged: begin anew */ }
  return fresh();
}

function keep() {
  try {
    localStorage.setItem(shelf, JSON.stringify(state));
  } catch {
    keeps = false;
  }
  $("unkept").hidden = keeps;
}

function answerFile() {
  return {
    format: "preference-study-answers",
    version: 1,
    study: study.study,
    participant: state.participant,
    seed: state.seed,
    started: state.started,
    finished: state.finished,
    screen: { width: innerWidth, height: innerHeight, pixel_ratio: devicePixelRatio },
    answers: state.answers.map((answer, step) => {
      const trial = trials[Math.floor(step / Q)];
      return {
        trial: Math.floor(step / Q), question: step % Q, left: trial.left, right: trial.right,
        repeats: trial.repeats, ...answer,
      };
    }),
  };
}

// ---- the view, shared by the three pictures ----

const $ = (id) => document.getElementById(id);
const panes = [...document.querySelectorAll(".pane")];
const images = panes.map((pane) => pane.querySelector("img"));
const MOST = 16;
const view = { zoom: 1, x: 0.5, y: 0.5 };
let size = { width: 1, height: 1 };
let zoomed = false;

function scaleNow() {
  const { width, height } = panes[0].getBoundingClientRect();
  return { width, height, scale: Math.min(width / size.width, height / size.height) * view.zoom };
}

function draw() {
  const { width, height, scale } = scaleNow();
  if (!(scale > 0)) return;
  const held = (centre, pane, side) => {
    const half = pane / side / scale / 2;
    return half >= 0.5 ? 0.5 : Math.min(Math.max(centre, half), 1 - half);
  };
  view.x = held(view.x, width, size.width);
  view.y = held(view.y, height, size.height);
  const [left, top] = [width / 2 - view.x * size.width * scale, height / 2 - view.y * size.height * scale];
  for (const image of images) {
    image.style.width = size.width + "px";
    image.style.height = size.height + "px";
    image.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
  }
  $("fit").textContent = Math.round(scale * 100) + "%";
  $("zoom-out").disabled = view.zoom <= 1;
  $("zoom-in").disabled = view.zoom >= MOST;
}

// the point of the picture under (x, y), in pixels from the pane's centre, stays where it is
function zoom(factor, x = 0, y = 0) {
  const { scale } = scaleNow();
  const before = view.zoom;
  view.zoom = Math.min(Math.max(before * factor, 1), MOST);
  const moved = (1 - before / view.zoom) / scale;
  view.x += (x * moved) / size.width;
  view.y += (y * moved) / size.height;
  zoomed = zoomed || view.zoom > 1;
  draw();
}

function pan(x, y) {
  const { scale } = scaleNow();
  view.x -= x / scale / size.width;
  view.y -= y / scale / size.height;
  draw();
}

function fit() {
  Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
  draw();
}

function watch(pane) {
  const touches = new Map();
  const fromCentre = (point) => {
    const box = pane.getBoundingClientRect();
    return [point.clientX - box.left - box.width / 2, point.clientY - box.top - box.height / 2];
  };
  pane.addEventListener("pointerdown", (event) => {
    pane.setPointerCapture(event.pointerId);
    touches.set(event.pointerId, event);
  });
  pane.addEventListener("pointermove", (event) => {
    const last = touches.get(event.pointerId);
    if (!last) return;
    touches.set(event.pointerId, event);
    const other = [...touches.values()].find((touch) => touch.pointerId !== event.pointerId);
    const share = other ? 2 : 1;
    pan((event.clientX - last.clientX) / share, (event.clientY - last.clientY) / share);
    if (other) {
      const apart = (point) => Math.hypot(point.clientX - other.clientX, point.clientY - other.clientY);
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      zoom(apart(event) / Math.max(apart(last), 1), ...fromCentre(middle));
    }
  });
  for (const end of ["pointerup", "pointercancel"])
    pane.addEventListener(end, (event) => touches.delete(event.pointerId));
  pane.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 30 : 1;
    zoom(2 ** ((-event.deltaY * lines) / 300), ...fromCentre(event));
  }, { passive: false });
  pane.addEventListener("dblclick", (event) => (view.zoom > 1 ? fit() : zoom(3, ...fromCentre(event))));
}

// ---- from page to page ----

let step = 0, shownTrial = null, since = 0, busy = false, original = false;

function setBusy(value) {
  busy = value;
  $("work").setAttribute("aria-busy", String(value));
}

function turn(id) {
  for (const page of ["intro", "work", "end"]) $(page).hidden = page !== id;
  scrollTo(0, 0);
}

function pictures(trial) {
  const scene = study.scenes[trial.scene];
  return [study.results[trial.left], original ? scene.hr : scene.lr, study.results[trial.right]];
}

async function put() {
  images.forEach((image, index) => (image.src = pictures(shownTrial)[index]));
  // together, so that none is seen before the others
  await Promise.all(images.map((image) => image.decode().catch(() => {})));
}

async function show() {
  const trial = trials[Math.floor(step / Q)];
  if (trial !== shownTrial) {
    setBusy(true);
    for (const image of images) image.style.visibility = "hidden";
    shownTrial = trial;
    original = zoomed = false;
    await put();
    size = { width: images[0].naturalWidth, height: images[0].naturalHeight };
    for (const image of images) image.style.visibility = "";
    setBusy(false);
    fit();
    since = performance.now();
    const next = trials[Math.floor(step / Q) + 1];
    if (next) for (const url of pictures(next)) new Image().src = url;
  }
  const number = Math.floor(step / Q) + 1;
  $("question").textContent = study.questions[step % Q];
  $("bar").max = trials.length * Q;
  $("bar").value = step;
  $("count").textContent = `${number} of ${trials.length}` + (Q > 1 ? `, question ${(step % Q) + 1} of ${Q}` : "");
  $("live").textContent = `Comparison ${$("count").textContent}: ${study.questions[step % Q]}`;
  $("back").disabled = step === 0;
  for (const choice of ["left", "none", "right"])
    $("choose-" + choice).setAttribute("aria-pressed", String(state.answers[step]?.choice === choice));
  labelMiddle();
}

function labelMiddle() {
  $("caption").textContent = original ? "original" : "small photo";
  $("middle").alt = original ? "Original photo" : "Small photo, stretched";
  $("original").setAttribute("aria-pressed", String(original));
}

async function toggleOriginal() {
  if (busy || !study.scenes[shownTrial.scene].hr) return;
  original = !original;
  labelMiddle();
  await put();
}

function choose(choice) {
  if (busy) return;
  const seconds = Math.round((performance.now() - since) / 10) / 100;
  const spent = (state.answers[step]?.seconds ?? 0) + seconds;
  state.answers[step] = { choice, seconds: Math.round(spent * 100) / 100, zoomed };
  since = performance.now();
  go(step + 1);
}

function go(target) {
  if (busy || target < 0) return;
  step = target;
  const done = step >= trials.length * Q;
  state.finished = done ? state.finished ?? new Date().toISOString() : null;
  keep();
  if (done) {
    turn("end");
    $("live").textContent = "Finished. Please save your answers.";
    $("save").focus();
  } else {
    turn("work");
    show();
  }
}

function begin() {
  state.started ??= new Date().toISOString();
  go(Math.min(state.answers.length, trials.length * Q));
}

function welcome() {
  trials = makeTrials(study, state.seed);
  state.answers.length = Math.min(state.answers.length, trials.length * Q);
  step = 0;
  shownTrial = null;
  $("amount").textContent = trials.length;
  $("start").textContent = state.answers.length ? "Go on" : "Start";
  turn("intro");
}

// ---- the file ----

function file() {
  const text = JSON.stringify(answerFile(), null, 1);
  return new File([text], `answers-${state.participant}.json`, { type: "application/json" });
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file());
  link.download = `answers-${state.participant}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---- keys and buttons ----

const ARROWS = { ArrowLeft: [80, 0], ArrowRight: [-80, 0], ArrowUp: [0, 80], ArrowDown: [0, -80] };
const KEYS = {
  ArrowLeft: () => choose("left"), 1: () => choose("left"),
  ArrowRight: () => choose("right"), 2: () => choose("right"),
  " ": () => choose("none"), 0: () => choose("none"),
  Backspace: () => go(step - 1),
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5),
  f: fit, o: toggleOriginal,
};
const MAY_REPEAT = ["+", "=", "-"];

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = document.activeElement?.tagName === "BUTTON";
  if (onButton && [" ", "Enter"].includes(event.key)) return;
  if (!$("intro").hidden) {
    if (event.key === "Enter") begin();
    return;
  }
  if (!$("end").hidden) {
    if (event.key === "Backspace") go(step - 1);
    return;
  }
  const move = event.shiftKey && ARROWS[event.key];
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!move && !action) return;
  event.preventDefault();
  if (move) pan(...move);
  else if (!event.repeat || MAY_REPEAT.includes(event.key)) action();
});

function onClick(id, action) {
  $(id).addEventListener("click", (event) => {
    // after a mouse click the keys belong to the page again, not to the button
    if (event.detail) $(id).blur();
    action();
  });
}

onClick("start", begin);
onClick("choose-left", () => choose("left"));
onClick("choose-none", () => choose("none"));
onClick("choose-right", () => choose("right"));
onClick("back", () => go(step - 1));
onClick("review", () => go(step - 1));
onClick("zoom-in", () => zoom(1.5));
onClick("zoom-out", () => zoom(1 / 1.5));
onClick("fit", fit);
onClick("original", toggleOriginal);
onClick("save", save);
onClick("share", () => navigator.share({ files: [file()] }).catch(() => {}));
onClick("anew", () => {
  if (!confirm("This removes these answers from this browser. Have they been saved?")) return;
  state = fresh();
  keep();
  welcome();
});

panes.forEach(watch);
new ResizeObserver(draw).observe($("stage"));
for (const item of document.querySelectorAll(".original")) item.hidden = !study.scenes.some((scene) => scene.hr);
for (const text of study.questions) {
  const item = document.createElement("li");
  item.textContent = text;
  $("questions").append(item);
}
$("contact").textContent = study.contact;
$("share").hidden = !(navigator.canShare && navigator.canShare({ files: [new File(["{}"], "answers.json", { type: "application/json" })] }));

state = load();
keep();
welcome();
if (state.finished) begin();
