// How long this server takes for a photo, learned from what it has made for this browser.

const SHELF = "linearsr-pace";
/** Of the time expected, after which the bar slows down instead of standing still at its end. */
const SURE = 0.9;

const kind = ({ fidelity, steps }) => (fidelity === 1 ? "mean" : `steps ${steps ?? "auto"}`);

export class Pace {
  /** By model and kind of work: seconds, and the megapixels that they were for. What is older counts half. */
  #known = JSON.parse(localStorage.getItem(SHELF) ?? "{}");
  #model = "";

  setUp({ id, devices }) {
    this.#model = `${id} ${devices}`;
  }

  /** A job (as the server tells it) is finished. */
  learn({ started, finished, input, options }) {
    const seconds = (Date.parse(finished) - Date.parse(started)) / 1000;
    if (!(seconds > 0)) return;
    const name = this.#name(options);
    const [before, pixels] = this.#known[name] ?? [0, 0];
    this.#known[name] = [before / 2 + seconds, pixels / 2 + (input.width * input.height) / 1e6];
    localStorage.setItem(SHELF, JSON.stringify(this.#known));
  }

  /** Seconds for a photo of `size`, null if that cannot be told yet. */
  estimate(size, options) {
    const [seconds, megapixels] = this.#known[this.#name(options)] ?? [];
    return size && seconds ? (seconds * size.width * size.height) / 1e6 / megapixels : null;
  }

  /** How far a photo is that is being worked on: {share, elapsed, left} with seconds; share and left null if unknown. */
  progress({ state, job, size, options, asked, begun, stepped }) {
    const now = Date.now();
    const elapsed = (now - (asked ?? now)) / 1000;
    if (state !== "running") return { share: null, elapsed, left: null };
    const worked = (now - begun) / 1000;
    const measured = job.progress ? (stepped - begun) / 1000 / job.progress : 0;
    const whole = measured || this.estimate(size ?? job.input, options);
    if (!whole) return { share: job.progress || null, elapsed, left: null };
    const passed = worked / whole;
    const eased = passed < SURE ? passed : 1 - (1 - SURE) * Math.exp((SURE - passed) / (1 - SURE));
    const share = Math.min(0.99, Math.max(job.progress, Math.min(eased, (job.step + 1) / job.steps)));
    // what comes after the last step has no expected time
    return { share, elapsed, left: job.step < job.steps ? whole - worked : null };
  }

  #name(options) {
    return `${this.#model} ${kind(options)}`;
  }
}
