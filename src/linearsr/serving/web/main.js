// The page from top to bottom: photos come in, are sent with the settings, and are looked at and saved.

import { Announcer } from "./announcer.js";
import { Api } from "./api.js";
import { $ } from "./dom.js";
import { t, translate } from "./i18n.js";
import { look, watchIntake } from "./intake.js";
import { Pace } from "./pace.js";
import { Photos } from "./photos.js";
import { Pictures } from "./pictures.js";
import { Previews } from "./previews.js";
import { redraw, refusal, remedy } from "./remedies.js";
import { Result } from "./result.js";
import { MOVING, Runner } from "./runner.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Tags } from "./tags.js";
import { Tray } from "./tray.js";
import { duration, megabytes, megapixels } from "./words.js";

/** Milliseconds that the view is still before its previews are drawn. */
const STILL = 500;
/** Seconds after which it is worth saying what is quicker, and that nobody has to wait here. */
const PATIENCE = 60;
const NARROW = matchMedia("(max-width: 52rem)");

translate();
const api = new Api(askForKey);
const photos = new Photos();
const pace = new Pace();
const learn = (job) => {
  pace.learn(job);
  render();
};
const runner = new Runner(api, photos, learn);
const settings = new Settings(render);
const tags = new Tags((photo, words) => photos.update(photo, { tags: words }));
const result = new Result(api, { saved, fail: tell });
const previews = new Previews(api, learn);
const stage = new Stage(new Pictures(api), { cancel: (photo) => runner.cancel(photo), retry: again, shrink, crop, lose, turned: preview });
const share = (photo) => pace.progress(photo).share;
const tray = new Tray({ select, remove, removeAll, saveAll, share });
const announcer = new Announcer();
const searches = new Map();
let server = null;
let turned = "";
let stillness = 0;

async function connect() {
  for (;;) {
    try {
      const { models, limits } = await api.models();
      server = { model: models[0], limits };
      tell(null);
      return setUp();
    } catch (error) {
      tell(error);
      if (error.status === 401) return;
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

function setUp() {
  const { model, limits } = server;
  settings.setUp(model, limits);
  tags.setUp(model);
  pace.setUp(model);
  $("model").textContent = model.id;
  $("limits").textContent = t("limits", { megapixels: megapixels(limits.max_pixels), bytes: megabytes(limits.max_bytes) });
  $("privacy").textContent = t("privacy", { host: location.host, time: duration(limits.keep_seconds) });
  render();
}

// ---- photos come in

async function take(files, left = []) {
  tell(left.length ? new Error(t("left_out", { count: left.length, names: left.slice(0, 5).join(", ") })) : null);
  const added = photos.add(files.map((file) => ({ file, name: file.name || "pasted.png" })));
  if (added.length) photos.select(added[0]);
  // one by one: decoding takes memory
  for (const photo of added) photos.update(photo, await look(photo.file));
  await ready;
  if (!server) return;
  // the person may have started some of them meanwhile
  added.filter(({ state }) => state === "ready").forEach(judge);
  preview();
  offerStart();
  if (photos.selected) findTags(photos.selected);
}

/** Enter starts, unless the person is in a field. */
function offerStart() {
  if (!document.activeElement.matches("#panel :is(input, select)")) $("start").focus({ preventScroll: true });
}

function judge(photo) {
  const message = refusal(photo, server.limits);
  photos.update(photo, { state: message ? "refused" : "ready", message });
}

/** Put a smaller photo in the place of one that is too large. */
async function replace(photo, box, pixels) {
  const { max_bytes: bytes } = server.limits;
  const smaller = await redraw(photo, box, { pixels, bytes });
  photos.update(photo, { ...smaller, ...(await look(smaller.file)) });
  judge(photo);
  offerStart();
  preview();
}

function shrink(photo) {
  replace(photo, { left: 0, top: 0, ...photo.size }, advice(photo).pixels).catch(tell);
}

function crop(photo) {
  const { left, top, width, height } = stage.window;
  const box = [left * photo.size.width, top * photo.size.height, width * photo.size.width, height * photo.size.height];
  const [x, y, w, h] = box.map(Math.round);
  replace(photo, { left: x, top: y, width: w, height: h }, advice(photo).pixels).catch(tell);
}

function select(photo) {
  photos.select(photo);
  $("stage").scrollIntoView({ block: "nearest" });
}

async function tryExample() {
  const blob = await (await fetch("example.jpg")).blob();
  await take([new File([blob], "example.jpg", { type: "image/jpeg" })]);
  if (!$("start").disabled) start();
}

/** Tags that may guide the photo; without them it can be enlarged all the same. */
async function findTags(photo) {
  const searched = photo.found || searches.has(photo) || MOVING.includes(photo.state);
  const { tagger, guided_by_tags: guided } = server.model;
  if (!tagger || !guided || !photo.file || photo.size === undefined || searched) return;
  const search = new AbortController();
  searches.set(photo, search);
  const found = await api.tags(photo.file, search.signal).catch(() => null);
  searches.delete(photo);
  photos.update(photo, { found });
}

/** Draw the looks at the place that is seen, when the person and the server are at rest. */
function preview() {
  clearTimeout(stillness);
  stillness = setTimeout(() => {
    const photo = photos.selected;
    const { state, file, size } = photo ?? {};
    const busy = photos.list.some((other) => MOVING.includes(other.state));
    if (!server || busy || !file || !size || state === "refused" || document.hidden) return;
    // unseen, they still tell how long the photo will take
    if (!$("fold").open && (state === "done" || pace.estimate(size, settings.options(photo)) !== null)) return;
    const { left, top, width, height } = stage.window;
    previews.show(photo, { x: left + width / 2, y: top + height / 2 }, settings.options(photo).steps);
  }, STILL);
}

// ---- and are enlarged

const waiting = () => photos.list.filter(({ state, file }) => state === "ready" && file);

function start() {
  const chosen = photos.selected;
  if (chosen.state !== "ready") return again(chosen);
  for (const photo of waiting().filter((other) => !settings.trouble(other))) run(photo);
}

function run(photo) {
  // it would take a place in the server's queue
  searches.get(photo)?.abort();
  previews.stop();
  runner.start(photo, { ...settings.options(photo), tags: Tags.option(photo) });
  // the button that was pressed is disabled now
  if (photo !== photos.selected) return;
  $("cancel").focus({ preventScroll: true });
  $("stage").scrollIntoView({ block: "nearest" });
}

/** What did not come to a result is tried again in its place; a result is kept beside the new one. */
function again(photo) {
  if (photo.state !== "done") return run(photo);
  const { file, name, size, thumbnail, found, origin, tags: words } = photo;
  const [copy] = photos.add([{ file, name, size, thumbnail, found, origin, tags: words }]);
  photos.select(copy);
  run(copy);
}

function remove(photo) {
  if (photo.state === "done" && !photo.saved && !confirm(t("remove.sure", { name: photo.name }))) return;
  runner.remove(photo);
}

function removeAll() {
  if (!confirm(t("remove.all.sure"))) return;
  for (const photo of [...photos.list]) runner.remove(photo);
}

function saveAll() {
  result.saveAll(photos.list.filter(({ state }) => state === "done"));
}

function saved(photo) {
  tell(null);
  photos.update(photo, { saved: true });
}

function lose(photo, error) {
  if (error.status === 404 || error.status === 410) photos.update(photo, { state: "gone" });
  else tell(error);
}

// ---- what is seen

/** An alert is read aloud whenever its text is written, so it is written when it changes only. */
function setAlert(id, text) {
  $(id).hidden = !text;
  if ($(id).textContent !== text) $(id).textContent = text;
}

function tell(error) {
  setAlert("notice", error?.message ?? "");
}

function render() {
  const photo = photos.selected;
  document.body.dataset.state = photo ? "work" : "welcome";
  $("welcome").hidden = Boolean(photo);
  for (const id of ["stage", "panel", "add"]) $(id).hidden = !photo;
  tray.render(photos);
  if (!photo || !server) return announcer.render(photos);
  const progress = pace.progress(photo);
  announcer.render(photos, progress.share);
  const { scale } = photo.options ?? settings.options(photo);
  const others = photos.list.filter((other) => other !== photo && other.origin === photo.origin && other.state === "done");
  stage.render(photo, { scale: scale > 0 ? scale : 1, progress, remedy: advice(photo), others });
  settings.render(photo);
  tags.render(photo);
  result.render(photo);
  renderStart(photo, progress);
  turnTo(photo);
  $("photo-name").textContent = $("photo-name").title = photo.name;
}

function advice(photo) {
  return remedy(photo, server.limits, pace.estimate(photo.size, settings.options(photo)));
}

function renderStart(photo, { left }) {
  const moving = MOVING.includes(photo.state);
  const chosen = photo.state === "ready" ? waiting() : [photo];
  const trouble = photo.file && !moving && photo.state !== "refused" ? settings.trouble(photo) : "";
  setAlert("trouble", trouble);
  $("start").disabled = Boolean(trouble) || !photo.file || moving || photo.state === "refused";
  $("start").classList.toggle("primary", photo.state !== "done");
  const once = photo.state === "ready" || photo.state === "refused" ? t("enlarge") : t("enlarge.again");
  $("start").textContent = moving ? t("enlarging") : chosen.length > 1 ? t("enlarge.many", { count: chosen.length }) : once;
  $("takes").textContent = moving ? patience(left) : $("start").disabled ? "" : expected(photo, chosen);
}

/** How long the chosen photos take, "" if that cannot be told. */
function expected(photo, chosen) {
  const estimate = (look) => chosen.reduce((sum, { size }) => sum + (pace.estimate(size, { ...settings.options(photo), ...look }) ?? NaN), 0);
  const [seconds, faithful] = [estimate({}), estimate({ fidelity: 1 })];
  if (!(seconds > 0)) return "";
  const quicker = seconds > PATIENCE && faithful < seconds / 2 ? t("takes.faithful", { time: duration(faithful) }) : "";
  return [t("takes", { time: duration(seconds) }), quicker].filter(Boolean).join(" · ");
}

/** What else to do meanwhile: once the server has the photos, it needs the page no more. */
function patience(left) {
  const sent = photos.list.every(({ state, job }) => job || !MOVING.includes(state));
  return sent && left > PATIENCE ? t("leave", { time: duration(server.limits.keep_seconds) }) : "";
}

/** Another photo, or a result: that comes first, and the settings fold away until the person opens them. */
function turnTo(photo) {
  const done = photo.state === "done";
  const view = `${photo.key} ${done}`;
  if (view === turned) return;
  turned = view;
  $("panel").dataset.done = done;
  // on a phone the photo and the button come first
  $("fold").open = !done && !NARROW.matches;
  $("settings-title").textContent = t(done ? "settings.other" : "settings");
  findTags(photo);
  previews.look(photo);
  preview();
}

function askForKey(wrong) {
  $("key-wrong").hidden = !wrong;
  if (!$("key").open) {
    $("key-text").value = "";
    $("key").showModal();
  }
  return new Promise((resolve) => $("key").addEventListener("close", () => resolve($("key-text").value), { once: true }));
}

photos.addEventListener("change", render);
// clocks go on, and the server is asked again
setInterval(() => photos.list.some(({ state }) => MOVING.includes(state)) && render(), 1000);
watchIntake(take);
$("example").addEventListener("click", tryExample);
$("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("start").disabled) start();
});
$("remove").addEventListener("click", () => remove(photos.selected));
$("open-help").addEventListener("click", () => $("help").showModal());
$("fold").addEventListener("toggle", preview);
$("steps").addEventListener("change", preview);

const ready = connect();
await photos.remember();
photos.list.forEach((photo) => runner.resume(photo));
