// Addresses (blob:) of the pictures of the photo that is looked at; those of others are let go.

const MOST_SHOWN_AS_PNG = 16e6;

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

  /** The result, null while there is none. A large one is shown as JPEG, many times smaller than PNG. */
  after(photo) {
    if (photo.state !== "done") return null;
    const { width, height } = photo.job.output;
    const format = width * height > MOST_SHOWN_AS_PNG ? "jpg" : "png";
    return this.#keep(photo.job.id, () => this.api.result(photo.job.id, format));
  }

  #keep(what, fetch) {
    if (!this.#addresses.has(what)) this.#addresses.set(what, fetch().then(URL.createObjectURL));
    return this.#addresses.get(what);
  }
}
