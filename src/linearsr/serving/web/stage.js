// The photo that is looked at, and over it what is being done with it.

import { $, make } from "./dom.js";
import { t } from "./i18n.js";
import { isShrunk } from "./pictures.js";
import { MOVING } from "./runner.js";
import { Viewer } from "./viewer.js";
import { clock, describe, duration, madeWith, megapixels } from "./words.js";

/** Milliseconds that the view is still before its parts are fetched. */
const STILL = 400;

export class Stage {
  #viewer;
  #photo = null;
  /** The photos whose results are seen, by side; none while others are fetched. */
  #seen = {};
  #shown = "";
  #others = [];
  #stillness = 0;

  /**
   * `cancel`, `retry`, `shrink` and `crop` get the photo when their button is pressed; `lose(photo, error)` is called if
   * a picture cannot be fetched; `turned()` when another part is seen.
   */
  constructor(pictures, { lose, turned, ...actions }) {
    this.pictures = pictures;
    this.lose = lose;
    this.#viewer = new Viewer(() => {
      turned();
      this.#sharpen();
    });
    for (const [button, action] of Object.entries(actions)) $(button).addEventListener("click", () => action(this.#photo));
    $("against").addEventListener("change", () => this.render(this.#photo, this.now));
  }

  /** What is seen, in shares of the photo's sides. */
  get window() {
    return this.#viewer.window;
  }

  /**
   * `now`: `scale` of the result to come; `progress` as Pace gives it; `remedy` {text, pixels} if something is to be said
   * before it is sent; `others`: other results of the photo.
   */
  render(photo, now) {
    const same = photo === this.#photo;
    this.#photo = photo;
    this.now = now;
    this.#renderStatus(photo, now);
    this.#renderOthers(photo, now.others);
    const against = this.#against;
    const size = photo.size ?? photo.size === null;
    const news = [photo.key, photo.state === "done", photo.state === "failed", photo.job?.id, size, now.scale, against?.key];
    const shown = JSON.stringify(news);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#renderPictures(photo, now.scale, same, against).catch((error) => this.lose(photo, error));
  }

  /** The other result that is shown in the place of the photo. */
  get #against() {
    return this.#others.find(({ key }) => key === $("against").value);
  }

  /** Of large results, which are shown small, fetch what is seen; once the view is still. */
  #sharpen() {
    clearTimeout(this.#stillness);
    this.#stillness = setTimeout(() => {
      for (const [side, photo] of Object.entries(this.#seen))
        if (photo?.state === "done" && isShrunk(photo.job.output))
          this.#viewer.sharpen(side, photo.job.output, (region) => this.pictures.part(photo, region)).catch((error) => this.lose(photo, error));
    }, STILL);
  }

  #renderStatus(photo, { progress, remedy }) {
    const { state } = photo;
    const text = remedy?.text ?? describe(photo);
    const moving = MOVING.includes(state);
    $("status").hidden = !text;
    $("status").classList.toggle("trouble", state === "failed" || state === "refused");
    if ($("status-text").textContent !== text) $("status-text").textContent = text;
    $("status-time").textContent = moving ? timing(progress) : "";
    $("progress").hidden = !moving;
    if (progress?.share == null) $("progress").removeAttribute("value");
    else $("progress").value = progress.share;
    $("cancel").hidden = !moving;
    $("retry").hidden = moving || Boolean(remedy) || !photo.file;
    $("shrink").hidden = $("crop").hidden = !remedy?.pixels;
    if (remedy?.pixels) $("shrink").textContent = t("shrink", { size: megapixels(Number(remedy.pixels.toPrecision(2))) });
    $("viewer").setAttribute("aria-busy", String(moving));
  }

  #renderOthers(photo, others) {
    if (JSON.stringify(others.map(({ key }) => key)) !== JSON.stringify(this.#others.map(({ key }) => key))) {
      const option = (value, text) => make("option", { value }, text);
      const chosen = $("against").value;
      $("against").replaceChildren(option("", t("original")), ...others.map((other) => option(other.key, madeWith(other))));
      $("against").value = others.some(({ key }) => key === chosen) ? chosen : "";
    }
    this.#others = others;
    $("against-row").hidden = photo.state !== "done" || !others.length;
  }

  async #renderPictures(photo, scale, same, against) {
    this.#seen = {};
    this.pictures.look(photo);
    const before = against ? this.pictures.after(against) : this.pictures.before(photo);
    const addresses = await Promise.all([before, this.pictures.after(photo)]);
    if (photo !== this.#photo) return;
    const [left, right] = addresses;
    $("unseen").hidden = Boolean(left || right) || photo.size !== null || ["failed", "refused"].includes(photo.state);
    const { name, size, job } = photo;
    const expected = size && { width: Math.round(size.width * scale), height: Math.round(size.height * scale) };
    const labels = against ? [madeWith(against), madeWith(photo)] : [t("before"), t("after")];
    await this.#viewer.show({ before: left, after: right, size: job?.output ?? expected, name, same, labels });
    if (photo !== this.#photo || against !== this.#against) return;
    this.#seen = { before: against, after: photo };
    this.#sharpen();
    // the button that had the focus is gone
    if (right && same && [$("cancel"), document.body].includes(document.activeElement)) $("divider").focus({ preventScroll: true });
  }
}

function timing({ elapsed, left }) {
  if (left === null) return clock(elapsed);
  const values = { elapsed: clock(elapsed), left: duration(left) };
  return t(left > 0 ? "elapsed.left" : "elapsed.over", values);
}
