// From a photo to its result: sent in order, tried again while the server is full, followed to the end.

import { t } from "./i18n.js";
import { adviceForHeic } from "./words.js";

const LONGEST_PAUSE = 15;
/** Milliseconds between two steps that are shown. */
const AT_MOST_EVERY = 100;

const sleep = (seconds, signal) =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
  });

export const ENDED = ["done", "failed", "cancelled", "gone"];
export const MOVING = ["sending", "waiting", "queued", "running"];

export class Runner {
  #line = Promise.resolve();
  #told = 0;
  #stops = new Map();

  /** `learn(job)` is called for every job that is done. */
  constructor(api, photos, learn) {
    this.api = api;
    this.photos = photos;
    this.learn = learn;
  }

  start(photo, options) {
    const asked = Date.now();
    this.photos.update(photo, { state: "waiting", options, asked, begun: null, job: null, message: null, retryAt: null });
    const stop = this.#stopper(photo);
    this.#line = this.#line.then(() => this.#send(photo, stop.signal)).catch(console.error);
  }

  /** Go on with what was under way at the last visit, and learn which results are still there. */
  async resume(photo) {
    const { signal } = this.#stopper(photo);
    if (MOVING.includes(photo.state)) return this.#follow(photo, signal);
    if (photo.state !== "done") return;
    try {
      await this.api.job(photo.job.id);
    } catch (error) {
      if (error.status === 404) this.photos.update(photo, { state: "gone" });
    }
  }

  async cancel(photo) {
    this.#stops.get(photo)?.abort();
    if (!MOVING.includes(photo.state)) return;
    this.photos.update(photo, { state: "cancelled", retryAt: null });
    if (photo.job) await this.api.remove(photo.job.id).catch(() => {});
  }

  /** Take it from the page and from the server. */
  async remove(photo) {
    this.#stops.get(photo)?.abort();
    this.photos.remove(photo);
    if (photo.job && photo.state !== "gone") await this.api.remove(photo.job.id).catch(() => {});
  }

  #stopper(photo) {
    const stop = new AbortController();
    this.#stops.set(photo, stop);
    return stop;
  }

  async #send(photo, signal) {
    while (!signal.aborted) {
      this.photos.update(photo, { state: "sending", retryAt: null });
      try {
        const job = await this.api.enlarge(photo.file, photo.options);
        if (signal.aborted) return void this.api.remove(job.id).catch(() => {});
        this.#update(photo, job);
        // not awaited: the next photo may be sent
        this.#follow(photo, signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (error.status !== 429) {
          const message = [error.message, error.status === 422 && adviceForHeic(photo.name)].filter(Boolean).join(". ");
          return this.photos.update(photo, { state: "failed", message });
        }
        const pause = Math.min(error.retryAfter ?? 5, LONGEST_PAUSE);
        this.photos.update(photo, { state: "waiting", message: error.message, retryAt: Date.now() + 1000 * pause });
        await sleep(pause, signal);
      }
    }
  }

  #update(photo, job) {
    const now = Date.now();
    const begun = job.status === "running" ? photo.begun ?? now : photo.begun;
    const stepped = job.progress !== photo.job?.progress ? now : photo.stepped;
    const message = job.error && t("failed.job", { reason: job.error });
    const quiet = job.status === photo.state && now - this.#told < AT_MOST_EVERY;
    if (!quiet) this.#told = now;
    this.photos.update(photo, { state: job.status, job, begun, stepped, message }, quiet);
    if (job.status === "done") this.learn(job);
  }

  async #follow(photo, signal) {
    for (let pause = 0.5; !signal.aborted; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
      try {
        for await (const job of this.api.changes(photo.job.id, signal)) {
          pause = 0.5;
          this.#update(photo, job);
        }
        if (ENDED.includes(photo.state)) return;
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 404) return this.photos.update(photo, { state: "gone" });
        this.photos.update(photo, { message: error.status === undefined ? null : error.message });
      }
      await sleep(pause, signal);
    }
  }
}
