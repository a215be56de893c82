// Numbers and states in words.

import { t, unit } from "./i18n.js";

export const megabytes = (bytes) => unit(bytes / 2 ** 20, "megabyte", "short");
export const megapixels = (pixels) => t("megapixels", { count: Number((pixels / 1e6).toPrecision(3)), wan: pixels / 1e4 });
export const sides = ({ width, height }) => `${width} × ${height}`;

export function duration(seconds) {
  if (seconds < 90) return unit(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 3600) return unit(Math.round(seconds / 60), "minute");
  return unit(Number((seconds / 3600).toPrecision(2)), "hour");
}

/** 75 -> "1:15" */
export function clock(seconds) {
  const whole = Math.floor(Math.max(0, seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1);

/** A photo's state for people; "" where there is nothing to say. */
export function describe(photo) {
  const { state, job, message, retryAt } = photo;
  switch (state) {
    case "waiting":
      return retryAt ? t("full", { time: duration((retryAt - Date.now()) / 1000) }) : t("waiting");
    case "queued":
      return message ?? (job.position ? t("queued", { count: job.position }) : t("queued.next"));
    case "running":
      if (message) return message;
      if (job.step >= job.steps) return t("finishing");
      return job.steps > 1 ? t("running.step", { step: String(job.step + 1), steps: String(job.steps) }) : t("running");
    case "failed":
      return message ? sentence(message) : t("failed");
    case "refused":
      return message;
    case "sending":
    case "cancelled":
    case "gone":
      return t(state);
    default:
      return "";
  }
}

/** What to do with a file that no server can read, or this one could not; "" if that depends. */
export const adviceForRaw = (name) => (/\.(dng|cr[23]|nef|arw|raf|orf|rw2)$/i.test(name) ? t("advice.raw") : "");
export const adviceForHeic = (name) => (/\.(heic|heif|hif)$/i.test(name) ? t("advice.heic") : "");

/** What a result was made with, short: "×4, fidelity 0.5". */
export function madeWith({ options }) {
  const fidelity = options.fidelity == null ? null : t("made.fidelity", { fidelity: options.fidelity });
  return [`×${Number(options.scale.toPrecision(3))}`, fidelity, options.steps == null ? null : t("made.steps", { count: options.steps })]
    .filter(Boolean)
    .join(", ");
}
