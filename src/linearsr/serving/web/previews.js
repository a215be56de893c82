// The looks as small previews of the photo itself, at the place that is looked at.

import { $ } from "./dom.js";
import { t } from "./i18n.js";
import { redraw } from "./remedies.js";

/** Pixels of the photo: few enough for a second. */
const SIDE = 64;
const pictures = () => document.querySelectorAll("#look img");

export class Previews {
  #shown = "";
  #stop = new AbortController();

  /** `learn(job)` is called for every preview that the server has made. */
  constructor(api, learn) {
    this.api = api;
    this.learn = learn;
  }

  /** Another photo is looked at: previews of the one before would mislead. */
  look({ key }) {
    if (this.#shown && JSON.parse(this.#shown)[0] === key) return;
    this.#shown = "";
    this.stop();
    this.#clear();
  }

  /** Leave the server to the photos. */
  stop() {
    this.#stop.abort();
  }

  /** Draw the previews of a photo around (x, y), shares of its sides, unless they are there. */
  async show(photo, { x, y }, steps) {
    const box = around(photo.size, x, y);
    const wanted = JSON.stringify([photo.key, box, steps]);
    if (wanted === this.#shown) return;
    this.stop();
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#shown = wanted;
    this.#clear();
    $("look-hint").textContent = t("look.making");
    try {
      const { file } = await redraw(photo, box);
      for (const picture of pictures()) await this.#draw(picture, file, steps, signal);
      $("look-hint").textContent = t("look.here");
    } catch {
      if (this.#shown !== wanted) return;
      this.#shown = "";
      $("look-hint").textContent = t("look.later");
    }
  }

  #clear() {
    for (const picture of pictures()) picture.hidden = true;
    $("look-hint").textContent = t("look.here");
  }

  async #draw(picture, file, steps, signal) {
    const { blob, id } = await this.api.preview(file, { fidelity: picture.dataset.fidelity, steps }, signal);
    signal.throwIfAborted();
    URL.revokeObjectURL(picture.src);
    picture.src = URL.createObjectURL(blob);
    picture.hidden = false;
    this.api.job(id).then((job) => this.learn(job)).then(() => this.api.remove(id)).catch(() => {});
  }
}

function around({ width, height }, x, y) {
  const [w, h] = [Math.min(SIDE, width), Math.min(SIDE, height)];
  const start = (centre, side, whole) => Math.round(Math.min(Math.max(centre * whole - side / 2, 0), whole - side));
  return { left: start(x, w, width), top: start(y, h, height), width: w, height: h };
}
