// News for those who listen, and for those who look at another tab.

import { say } from "./dom.js";
import { describe, sides } from "./words.js";

export class Announcer {
  #said = new Map();

  render({ list, selected }) {
    for (const photo of list) {
      const { state } = photo;
      // a countdown is not news
      const key = state === "waiting" ? state : `${state} ${describe(photo)}`;
      const before = this.#said.get(photo);
      if (key === before) continue;
      this.#said.set(photo, key);
      const ended = state === "done" || state === "failed";
      if (before === undefined || state === "ready" || (photo !== selected && !ended)) continue;
      say(`${photo.name}: ${state === "done" ? `ready, ${sides(photo.job.output)} pixels` : describe(photo)}`);
    }
    document.title = [headline(selected), "LinearSR"].filter(Boolean).join(" · ");
  }
}

function headline(photo) {
  if (photo?.state === "running") return `${Math.round(100 * photo.job.progress)}%`;
  return { done: "✓ Ready", failed: "Failed", queued: "In the queue", waiting: "Waiting" }[photo?.state];
}
