// Two pictures of one scene: under a divider, or side by side; they always show the same place.

import { $ } from "./dom.js";
import { watch } from "./gestures.js";
import { t } from "./i18n.js";
import { View } from "./view.js";

const GRIP = 28;

export class Viewer {
  #view = new View();
  #shown = { before: null, after: null };

  /** `turned()` is called when another part of the picture is seen. */
  constructor(turned) {
    this.turned = turned;
    this.root = $("viewer");
    this.panes = [...this.root.querySelectorAll(".pane")];
    this.images = { before: $("before"), after: $("after") };
    this.divider = $("divider");
    watch(this.panes, {
      grab: (point) => this.#grab(point),
      move: (x, y) => this.#change(() => this.#view.moveBy(x, y)),
      zoom: (factor, point) => this.zoomBy(factor, point),
      zoomTo: (scale) => this.zoomTo(scale),
      toggle: (point) => (this.#view.whole ? this.zoomBy(4, point) : this.fit()),
      fit: () => this.fit(),
    });
    this.divider.addEventListener("input", () => this.#slide(this.divider.value / 100));
    $("zoom-in").addEventListener("click", () => this.zoomBy(1.5));
    $("zoom-out").addEventListener("click", () => this.zoomBy(1 / 1.5));
    $("fit").addEventListener("click", () => this.fit());
    $("actual").addEventListener("click", () => this.zoomTo(1));
    $("double").addEventListener("click", () => this.zoomTo(2));
    for (const mode of ["slider", "beside"])
      $(`mode-${mode}`).addEventListener("click", () => this.#arrange(mode));
    new ResizeObserver(() => this.#draw()).observe(this.panes[0]);
    this.#arrange("slider");
  }

  /**
   * Show addresses of pictures, null where there is none; resolves when they are seen.
   * `size` {width, height} is in pixels of the result; `same`: the view stays as it is. `labels`: of both pictures.
   */
  async show({ before, after, size, name, same, labels }) {
    if (!same) this.#view.fit();
    this.#shown = { before, after };
    ["before", "after"].forEach((which, place) => {
      this.images[which].alt = t(`${which}.of`, { name });
      this.panes[place].ariaLabel = this.panes[place].querySelector(".label").textContent = labels[place];
    });
    const arrives = after && !this.root.classList.contains("both");
    this.root.classList.remove("sweep");
    await Promise.all([this.#put("before", before), this.#put("after", after)]);
    if (this.#shown.before !== before || this.#shown.after !== after) return;
    const { naturalWidth: width, naturalHeight: height } = this.images[after ? "after" : "before"];
    this.picture = size ?? (width ? { width, height } : null);
    this.root.classList.toggle("both", Boolean(before && after));
    this.root.classList.toggle("empty", !before && !after);
    this.#arrange(this.root.dataset.mode);
    if (same && arrives) this.#sweep();
    else if (!same) this.#divide(0.5);
  }

  get window() {
    return this.#view.window;
  }

  /**
   * Lay what is seen over a picture that has too few pixels: fewer than `width` and `height`, those of the result.
   * `fetch` its address by [left, top, width, height].
   */
  async sharpen(side, { width, height }, fetch) {
    const image = this.images[side];
    if (image.hidden || image.naturalWidth >= Math.min(width, this.#view.box.width * devicePixelRatio)) return;
    const { window } = this;
    const edge = (share, length) => Math.min(Math.round(share * length), length);
    const [left, right] = [window.left, window.left + window.width].map((share) => edge(share, width));
    const [top, bottom] = [window.top, window.top + window.height].map((share) => edge(share, height));
    const region = [left, top, right - left, bottom - top];
    const part = $(`${side}-part`);
    const wanted = (part.dataset.wanted = `${image.src} ${region}`);
    const address = await fetch(region);
    if (part.dataset.wanted !== wanted) return;
    part.hidden = true;
    part.src = address;
    const decoded = await part.decode().then(() => true, () => false);
    if (!decoded || part.dataset.wanted !== wanted) return;
    const shares = { x: left / width, y: top / height, wide: region[2] / width, high: region[3] / height };
    for (const [name, share] of Object.entries(shares)) part.style.setProperty(`--${name}`, share);
    part.hidden = false;
  }

  fit() {
    this.#change(() => this.#view.fit());
  }

  /** CSS pixels for a pixel of the result. */
  zoomTo(scale) {
    this.zoomBy(scale / this.#view.scale);
  }

  zoomBy(factor, point) {
    const { width, height } = this.#view.pane;
    const centre = { x: width / 2, y: height / 2 };
    const { x, y } = point ?? centre;
    this.#change(() => this.#view.zoomBy(factor, x - centre.x, y - centre.y));
  }

  async #put(which, address) {
    const image = this.images[which];
    if (image.getAttribute("src") === address) return;
    const part = $(`${which}-part`);
    image.hidden = part.hidden = true;
    delete part.dataset.wanted;
    if (!address) return image.removeAttribute("src");
    image.src = address;
    await image.decode().then(() => (image.hidden = false), () => {});
  }

  #arrange(mode) {
    this.root.dataset.mode = mode;
    for (const other of ["slider", "beside"]) $(`mode-${other}`).setAttribute("aria-pressed", String(mode === other));
    this.#draw();
  }

  /** From the photo to both halves, so that one sees what has come. */
  #sweep() {
    this.#divide(1);
    requestAnimationFrame(() => requestAnimationFrame(() => {
      this.root.classList.add("sweep");
      this.#divide(0.5);
    }));
  }

  #slide(share) {
    this.root.classList.remove("sweep");
    this.#divide(share);
  }

  #divide(share) {
    this.divider.value = Math.round(share * 100);
    this.divider.setAttribute("aria-valuetext", t("divider.at", { share: this.divider.value }));
    this.root.style.setProperty("--share", share);
  }

  #grab({ x }) {
    if (this.root.dataset.mode !== "slider" || !this.root.classList.contains("both")) return null;
    const { left, right } = this.#view.seen;
    const at = left + (this.divider.value / 100) * (right - left);
    if (!this.#view.whole && Math.abs(x - at) > GRIP) return null;
    const drag = (point) => this.#slide(Math.min(Math.max((point.x - left) / (right - left), 0), 1));
    drag({ x });
    return drag;
  }

  #change(change) {
    change();
    this.#draw();
    this.turned();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.panes[0];
    for (const button of this.root.parentElement.querySelectorAll(".tools button")) button.disabled = !this.picture;
    $("zoom").textContent = "";
    if (!this.picture || !width || !height) return;
    this.#view.resize({ width, height }, this.picture);
    const { box, seen, scale, zoom, least, closest, whole } = this.#view;
    const lengths = { ...box, from: seen.left, to: seen.right };
    for (const [name, value] of Object.entries(lengths)) this.root.style.setProperty(`--${name}`, `${value}px`);
    this.root.classList.toggle("whole", whole);
    $("zoom").textContent = `${Math.round(scale * 100)}%`;
    $("fit").disabled = zoom === 1;
    $("zoom-out").disabled = zoom <= least;
    $("zoom-in").disabled = zoom >= closest;
  }
}
