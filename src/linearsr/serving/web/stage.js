// The photo that is looked at, and over it what is being done with it.

import { $ } from "./dom.js";
import { MOVING } from "./runner.js";
import { Viewer } from "./viewer.js";
import { describe } from "./words.js";

export class Stage {
  #viewer = new Viewer();
  #photo = null;
  #shown = "";

  /** `cancel(photo)` and `retry(photo)` are called for the buttons; `lose(photo, error)` if a picture cannot be fetched. */
  constructor(pictures, { cancel, retry, lose }) {
    this.pictures = pictures;
    this.lose = lose;
    $("cancel").addEventListener("click", () => cancel(this.#photo));
    $("retry").addEventListener("click", () => retry(this.#photo));
  }

  /** `scale`: of the result to come. */
  render(photo, scale) {
    const same = photo === this.#photo;
    this.#photo = photo;
    this.#renderStatus(photo);
    const news = [photo.key, photo.state === "done", photo.state === "failed", photo.job?.id, photo.size ?? photo.size === null, scale];
    const shown = JSON.stringify(news);
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#renderPictures(photo, scale, same).catch((error) => this.lose(photo, error));
  }

  #renderStatus(photo) {
    const { state, job } = photo;
    const text = describe(photo);
    const moving = MOVING.includes(state);
    $("status").hidden = !text;
    $("status").classList.toggle("trouble", state === "failed");
    if ($("status-text").textContent !== text) $("status-text").textContent = text;
    $("progress").hidden = !moving;
    if (state === "running") $("progress").value = job.progress;
    else $("progress").removeAttribute("value");
    $("cancel").hidden = !moving;
    $("retry").hidden = moving || !photo.file;
    $("viewer").setAttribute("aria-busy", String(moving));
  }

  async #renderPictures(photo, scale, same) {
    this.pictures.look(photo);
    const addresses = await Promise.all([this.pictures.before(photo), this.pictures.after(photo)]);
    if (photo !== this.#photo) return;
    const [before, after] = addresses;
    $("unseen").hidden = Boolean(before || after) || photo.size !== null || photo.state === "failed";
    const { name, size, job } = photo;
    const expected = size && { width: Math.round(size.width * scale), height: Math.round(size.height * scale) };
    await this.#viewer.show({ before, after, size: job?.output ?? expected, name, same });
    // the button that had the focus is gone
    if (after && same && [$("cancel"), document.body].includes(document.activeElement)) $("divider").focus({ preventScroll: true });
  }
}
