// The page from top to bottom: photos come in, are sent with the settings, and are looked at and saved.

import { Announcer } from "./announcer.js";
import { Api } from "./api.js";
import { $ } from "./dom.js";
import { look, watchIntake } from "./intake.js";
import { Photos } from "./photos.js";
import { Pictures } from "./pictures.js";
import { Result } from "./result.js";
import { MOVING, Runner } from "./runner.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";
import { Tags } from "./tags.js";
import { Tray } from "./tray.js";
import { duration, megabytes, megapixels, sides } from "./words.js";

const api = new Api(askForKey);
const photos = new Photos();
const runner = new Runner(api, photos);
const settings = new Settings(render);
const tags = new Tags((photo, words) => photos.update(photo, { tags: words }));
const result = new Result(api, { saved, fail: tell });
const stage = new Stage(new Pictures(api), { cancel: (photo) => runner.cancel(photo), retry: again, lose });
const tray = new Tray({ select, remove, removeAll });
const announcer = new Announcer();
const searches = new Map();
let server = null;
let turned = "";

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
  $("model").textContent = model.id;
  $("limits").textContent = `Up to ${megapixels(limits.max_pixels)} and ${megabytes(limits.max_bytes)} each`;
  $("privacy").textContent = `Photos go to ${location.host} and nowhere else. Results are removed after ${duration(limits.keep_seconds)}.`;
  render();
}

// ---- photos come in

async function take(files) {
  const added = photos.add(files.map((file) => ({ file, name: file.name || "pasted.png" })));
  if (added.length) photos.select(added[0]);
  await Promise.all(added.map(async (photo) => photos.update(photo, await look(photo.file))));
  await ready;
  if (!server) return;
  for (const photo of added) {
    const message = refuse(photo);
    if (message) photos.update(photo, { state: "failed", message, file: null });
  }
  $("start").focus({ preventScroll: true });
  if (photos.selected) findTags(photos.selected);
}

function select(photo) {
  photos.select(photo);
  $("stage").scrollIntoView({ block: "nearest" });
}

/** Why the server would not take it, "" if it would. */
function refuse({ file, size }) {
  const { max_bytes: bytes, max_pixels: pixels } = server.limits;
  if (file.size > bytes) return `This file has ${megabytes(file.size)}; this server takes up to ${megabytes(bytes)}.`;
  if (size && size.width * size.height > pixels)
    return `This photo has ${sides(size)} = ${megapixels(size.width * size.height)}; this server takes up to ${megapixels(pixels)}.`;
  return "";
}

async function tryExample() {
  const blob = await (await fetch("example.jpg")).blob();
  await take([new File([blob], "example.jpg", { type: "image/jpeg" })]);
  if (!$("start").disabled) start();
}

/** Tags are shown beside the photo; without them it can be enlarged all the same. */
async function findTags(photo) {
  const searched = photo.found || searches.has(photo) || MOVING.includes(photo.state);
  if (!server.model.tagger || !photo.file || photo.size === undefined || searched) return;
  const search = new AbortController();
  searches.set(photo, search);
  const found = await api.tags(photo.file, search.signal).catch(() => null);
  searches.delete(photo);
  photos.update(photo, { found });
}

// ---- and are enlarged

const waiting = () => photos.list.filter(({ state, file }) => state === "ready" && file);

function start() {
  const chosen = photos.selected;
  if (chosen.state !== "ready") return again(chosen);
  for (const photo of waiting()) run(photo);
}

function run(photo) {
  // it would take a place in the server's queue
  searches.get(photo)?.abort();
  runner.start(photo, { ...settings.options, tags: Tags.option(photo) });
  // the button that was pressed is disabled now
  if (photo === photos.selected) $("cancel").focus({ preventScroll: true });
}

/** What did not come to a result is tried again in its place; a result is kept beside the new one. */
function again(photo) {
  if (photo.state !== "done") return run(photo);
  const { file, name, size, thumbnail, found, tags: words } = photo;
  const [copy] = photos.add([{ file, name, size, thumbnail, found, tags: words }]);
  photos.select(copy);
  run(copy);
}

function remove(photo) {
  if (photo.state === "done" && !photo.saved && !confirm(`Remove ${photo.name}? Its result has not been downloaded.`)) return;
  runner.remove(photo);
}

function removeAll() {
  if (!confirm("Remove all photos and their results?")) return;
  for (const photo of [...photos.list]) runner.remove(photo);
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
  announcer.render(photos);
  if (!photo || !server) return;
  const { scale } = photo.options ?? settings.options;
  stage.render(photo, scale > 0 ? scale : 1);
  settings.render(photo);
  tags.render(photo);
  result.render(photo);
  renderStart(photo);
  turnTo(photo);
  $("photo-name").textContent = $("photo-name").title = photo.name;
}

function renderStart(photo) {
  const several = photo.state === "ready" ? waiting().length : 1;
  const trouble = photo.file ? settings.trouble(photo) : "";
  setAlert("trouble", trouble);
  $("start").disabled = Boolean(trouble) || !photo.file || MOVING.includes(photo.state);
  $("start").classList.toggle("primary", photo.state !== "done");
  const once = several > 1 ? `Enlarge ${several} photos` : photo.state === "ready" ? "Enlarge" : "Enlarge again";
  $("start").textContent = MOVING.includes(photo.state) ? "Enlarging…" : once;
}

/** Another photo, or a result: that comes first, and the settings fold away until the person opens them. */
function turnTo(photo) {
  const done = photo.state === "done";
  const view = `${photo.key} ${done}`;
  if (view === turned) return;
  turned = view;
  $("fold").open = !done;
  $("settings-title").textContent = done ? "Try other settings" : "Settings";
  findTags(photo);
}

function askForKey(wrong) {
  $("key-wrong").hidden = !wrong;
  $("key-text").value = "";
  if (!$("key").open) $("key").showModal();
  return new Promise((resolve) => $("key").addEventListener("close", () => resolve($("key-text").value), { once: true }));
}

photos.addEventListener("change", render);
setInterval(() => photos.list.some(({ retryAt }) => retryAt) && render(), 1000);
watchIntake(take);
$("example").addEventListener("click", tryExample);
$("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("start").disabled) start();
});
$("remove").addEventListener("click", () => remove(photos.selected));
$("open-help").addEventListener("click", () => $("help").showModal());

const ready = connect();
await photos.remember();
photos.list.forEach((photo) => runner.resume(photo));
