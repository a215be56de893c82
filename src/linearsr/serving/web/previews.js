// The looks as small previews of the photo itself, at the place that is looked at.

import { $ } from "./dom.js";
import { t } from "./i18n.js";
import { redraw } from "./remedies.js";

/** Pixels of the photo: few enough for a second, and enough to tell how long a large photo takes. */
const SIDE = 96;
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
      const [faithful, balanced, crisp] = pictures();
      for (const end of [faithful, crisp]) await this.#draw(end, file, steps, signal);
      // fidelity is a straight line between the two, so this one costs nothing
      show(balanced, await blend(crisp, faithful, Number(balanced.dataset.fidelity)));
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
    show(picture, blob);
    this.api.job(id).then((job) => this.learn(job)).then(() => this.api.remove(id)).catch(() => {});
  }
}

function show(picture, blob) {
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(blob);
  picture.hidden = false;
}

/** The picture `share` of the way from one image to another of its size. */
async function blend(from, to, share) {
  await Promise.all([from.decode(), to.decode()]);
  const canvas = new OffscreenCanvas(from.naturalWidth, from.naturalHeight);
  const pen = canvas.getContext("2d");
  pen.drawImage(from, 0, 0);
  pen.globalAlpha = share;
  pen.drawImage(to, 0, 0);
  return canvas.convertToBlob();
}

function around({ width, height }, x, y) {
  const [w, h] = [Math.min(SIDE, width), Math.min(SIDE, height)];
  const start = (centre, side, whole) => Math.round(Math.min(Math.max(centre * whole - side / 2, 0), whole - side));
  return { left: start(x, w, width), top: start(y, h, height), width: w, height: h };
}
