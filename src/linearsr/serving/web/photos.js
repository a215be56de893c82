// The photos of this browser, newest first, and which of them is looked at.

import { shelf } from "./shelf.js";

const LONGEST = 7 * 24 * 3600 * 1000;

// crypto.randomUUID is missing where a page comes by plain HTTP from another machine
const newKey = () => [...crypto.getRandomValues(new Uint32Array(3))].map((number) => number.toString(36)).join("-");

/**
 * A photo:
 *   key, name, added             who it is, the file's name, and when it came (milliseconds)
 *   file, size, thumbnail        what the person gave; {width, height} and a small data: address, null if the browser cannot
 *                                show it, undefined before that is known
 *   origin                       key of the photo of which it is another result, else its own
 *   state                        ready, refused, sending, waiting, queued, running, done, failed, cancelled or gone
 *   options                      what it was sent with: scale, fidelity, steps, tags
 *   found, tags                  tags that the model found; tags that shall guide it, null: as the model does by itself
 *   job, message, retryAt        the server's last word; what went wrong; when it is sent again (milliseconds)
 *   asked, begun, stepped        when the person asked for it, the server began, and it took its last step (milliseconds)
 */
export class Photos extends EventTarget {
  list = [];
  selected = null;

  /** What an earlier visit left. */
  async remember() {
    const kept = await shelf.all();
    const old = Date.now() - LONGEST;
    for (const photo of kept.filter(({ added }) => added < old)) shelf.forget(photo.key);
    this.list.push(...kept.filter(({ added }) => added >= old).sort((one, other) => other.added - one.added));
    this.selected ??= this.list.find(({ state }) => state === "done") ?? this.list[0] ?? null;
    this.#changed();
  }

  /** What is known about each new photo -> the photos, now first in the list. */
  add(known) {
    const now = Date.now();
    const added = known.map((photo, place) => {
      const key = newKey();
      const empty = { found: null, tags: null, job: null, message: null, retryAt: null };
      return { ...empty, key, origin: key, added: now - place, state: "ready", ...photo };
    });
    this.list.unshift(...added);
    this.#changed();
    return added;
  }

  /** `quiet`: nobody is told, as more is to come. */
  update(photo, changes, quiet = false) {
    const turned = changes.state !== undefined && changes.state !== photo.state;
    Object.assign(photo, changes);
    const final = photo.job || ["refused", "failed"].includes(changes.state);
    if ((changes.size !== undefined || (turned && final)) && this.list.includes(photo)) shelf.keep(photo);
    if (!quiet) this.#changed();
  }

  remove(photo) {
    const place = this.list.indexOf(photo);
    this.list.splice(place, 1);
    shelf.forget(photo.key);
    if (this.selected === photo) this.selected = this.list[Math.min(place, this.list.length - 1)] ?? null;
    this.#changed();
  }

  select(photo) {
    this.selected = photo;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
