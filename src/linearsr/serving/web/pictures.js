// Addresses (blob:) of the pictures of the photo that is looked at; those of others are let go.

const MOST_SHOWN_WHOLE = 16e6;

/** Whether a result is too large for a browser (a phone's above all): a small picture of it is shown, and parts of it. */
export const isShrunk = ({ width, height }) => width * height > MOST_SHOWN_WHOLE;

export class Pictures {
  #photo = null;
  #addresses = new Map();

  constructor(api) {
    this.api = api;
  }

  look(photo) {
    if (photo === this.#photo) return;
    for (const address of this.#addresses.values()) address.then(URL.revokeObjectURL, () => {});
    this.#addresses.clear();
    this.#photo = photo;
  }

  /** What the person gave; null while this browser cannot show it. */
  before(photo) {
    return photo.size && photo.file ? this.#keep(photo.file, async () => photo.file) : null;
  }

  /** The result, null while there is none. */
  after(photo) {
    if (photo.state !== "done") return null;
    const { id, output } = photo.job;
    return this.#keep(id, () => (isShrunk(output) ? this.api.small(id) : this.api.result(id, "png")));
  }

  /** A part of a result that is shown small: [left, top, width, height] in its pixels. */
  part({ job }, region) {
    return this.#keep(`${job.id} ${region}`, () => this.api.small(job.id, region));
  }

  #keep(what, fetch) {
    if (!this.#addresses.has(what)) this.#addresses.set(what, fetch().then(URL.createObjectURL));
    return this.#addresses.get(what);
  }
}
