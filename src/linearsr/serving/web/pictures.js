// Addresses (blob:) of the pictures of the photo that is looked at; those of others are let go.

const MOST_SHOWN_WHOLE = 16e6;
/** Parts of results that are kept, of up to 4096 x 4096 pixels each. */
const MOST_PARTS = 8;

/** Whether a result is too large for a browser (a phone's above all): a small picture of it is shown, and parts of it. */
export const isShrunk = ({ width, height }) => width * height > MOST_SHOWN_WHOLE;

export class Pictures {
  #photo = null;
  #wholes = new Map();
  #parts = new Map();

  constructor(api) {
    this.api = api;
  }

  look(photo) {
    if (photo === this.#photo) return;
    for (const addresses of [this.#wholes, this.#parts]) trim(addresses, 0);
    this.#photo = photo;
  }

  /** What the person gave; null while this browser cannot show it. */
  before(photo) {
    return photo.size && photo.file ? keep(this.#wholes, photo.file, async () => photo.file) : null;
  }

  /** The result, null while there is none. */
  after(photo) {
    if (photo.state !== "done") return null;
    const { id, output } = photo.job;
    return keep(this.#wholes, id, () => (isShrunk(output) ? this.api.small(id) : this.api.result(id, "png")));
  }

  /** A part of a result that is shown small: [left, top, width, height] in its pixels. */
  part({ job }, region) {
    const address = keep(this.#parts, `${job.id} ${region}`, () => this.api.small(job.id, region));
    trim(this.#parts, MOST_PARTS);
    return address;
  }
}

/** The address of `what`, now the latest of `addresses`. */
function keep(addresses, what, fetch) {
  const address = addresses.get(what) ?? fetch().then(URL.createObjectURL);
  addresses.delete(what);
  addresses.set(what, address);
  return address;
}

/** Let go of the oldest `addresses` until there are `most`. */
function trim(addresses, most) {
  for (const [what, address] of addresses) {
    if (addresses.size <= most) return;
    address.then(URL.revokeObjectURL, () => {});
    addresses.delete(what);
  }
}
