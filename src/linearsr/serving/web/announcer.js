// News for those who listen, and for those who look at another tab.

import { say } from "./dom.js";
import { t } from "./i18n.js";
import { describe, sides } from "./words.js";

export class Announcer {
  #said = new Map();

  /** `share`: how far the selected photo is, null if unknown. */
  render({ list, selected }, share) {
    for (const photo of list) {
      const { state } = photo;
      // a countdown is not news
      const key = state === "waiting" ? state : `${state} ${describe(photo)}`;
      const before = this.#said.get(photo);
      if (key === before) continue;
      this.#said.set(photo, key);
      const ended = state === "done" || state === "failed";
      if (before === undefined || state === "ready" || (photo !== selected && !ended)) continue;
      say(`${photo.name}: ${state === "done" ? t("ready.size", { size: sides(photo.job.output) }) : describe(photo)}`);
    }
    document.title = [headline(selected, share), "LinearSR"].filter(Boolean).join(" · ");
  }
}

function headline(photo, share) {
  if (photo?.state === "running") return `${Math.round(100 * (share ?? 0))}%`;
  const key = { done: "ready", failed: "failed", queued: "queued", waiting: "waiting" }[photo?.state];
  return key && t(`title.${key}`);
}
