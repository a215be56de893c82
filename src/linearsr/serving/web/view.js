// Where a picture lies in its pane. Lengths are CSS pixels; x and y are the picture's point in the pane's centre, 0 to 1.

const CLOSEST = 8;

export class View {
  zoom = 1;
  x = 0.5;
  y = 0.5;
  pane = { width: 1, height: 1 };
  picture = { width: 1, height: 1 };

  /** CSS pixels for a pixel of the picture where the whole fits the pane. */
  get fitting() {
    return Math.min(this.pane.width / this.picture.width, this.pane.height / this.picture.height);
  }

  get scale() {
    return this.fitting * this.zoom;
  }

  get closest() {
    return Math.max(CLOSEST, CLOSEST / this.fitting);
  }

  /** A small picture can be seen at its own size, too. */
  get least() {
    return Math.min(1, 1 / this.fitting);
  }

  get whole() {
    return this.zoom <= 1;
  }

  /** The picture's rectangle in the pane. */
  get box() {
    const width = this.picture.width * this.scale;
    const height = this.picture.height * this.scale;
    return { left: this.pane.width / 2 - this.x * width, top: this.pane.height / 2 - this.y * height, width, height };
  }

  /** From where to where the picture is seen, left to right. */
  get seen() {
    const { left, width } = this.box;
    return { left: Math.max(0, left), right: Math.min(this.pane.width, left + width) };
  }

  /** What of the picture is in the pane: {left, top, width, height}, shares of its sides. */
  get window() {
    const { left, top, width, height } = this.box;
    const part = (start, side, pane) => [Math.max(0, -start) / side, Math.min(1, (pane - start) / side)];
    const [x, right] = part(left, width, this.pane.width);
    const [y, bottom] = part(top, height, this.pane.height);
    return { left: x, top: y, width: right - x, height: bottom - y };
  }

  fit() {
    Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 });
  }

  /** The picture's point at (x, y), from the pane's centre, stays where it is. */
  zoomBy(factor, x = 0, y = 0) {
    const before = this.scale;
    this.zoom = Math.min(Math.max(this.zoom * factor, this.least), this.closest);
    const moved = 1 / before - 1 / this.scale;
    this.x += (x * moved) / this.picture.width;
    this.y += (y * moved) / this.picture.height;
    this.#hold();
  }

  moveBy(x, y) {
    this.x -= x / this.scale / this.picture.width;
    this.y -= y / this.scale / this.picture.height;
    this.#hold();
  }

  resize(pane, picture = this.picture) {
    this.pane = pane;
    this.picture = picture;
    this.zoom = Math.min(Math.max(this.zoom, this.least), this.closest);
    this.#hold();
  }

  /** No empty border where the picture could fill it. */
  #hold() {
    const held = (centre, pane, side) => {
      const half = pane / (side * this.scale) / 2;
      return half >= 0.5 ? 0.5 : Math.min(Math.max(centre, half), 1 - half);
    };
    this.x = held(this.x, this.pane.width, this.picture.width);
    this.y = held(this.y, this.pane.height, this.picture.height);
  }
}
