// What the server would not take, and a smaller photo in its place.

import { t } from "./i18n.js";
import { ENDINGS } from "./intake.js";
import { adviceForRaw, duration, megabytes, megapixels, sides } from "./words.js";

/** Of the time that a photo may take: an estimate can be wrong. */
const SAFE = 0.8;
const QUALITY = 0.95;

const count = ({ width, height }) => width * height;

/** Why the server would not take a photo, "" if it would. */
export function refusal({ file, name, size }, { max_bytes: bytes, max_pixels: pixels }) {
  if (file.size > bytes) return t("refused.bytes", { bytes: megabytes(file.size), limit: megabytes(bytes) });
  if (size && count(size) > pixels)
    return t("refused.pixels", { size: sides(size), megapixels: megapixels(count(size)), limit: megapixels(pixels) });
  // a system that knows no type gives none
  if (!size && !file.type.startsWith("image/") && !ENDINGS.test(name)) return t("refused.kind");
  return adviceForRaw(name);
}

/** What to say before a photo is sent, and the pixels to which it may be shrunk: {text, pixels}; null: nothing. */
export function remedy(photo, limits, seconds) {
  const { state, size, message } = photo;
  if (state === "refused") return { text: message, pixels: size && Math.min(count(size), limits.max_pixels) };
  const limit = limits.max_seconds * Math.max(1, size ? count(size) / 1e6 : 1);
  if (state !== "ready" || !(seconds > limit)) return null;
  const text = t("slow", { time: duration(seconds), limit: duration(limit) });
  return { text, pixels: (SAFE * count(size) * limits.max_seconds) / seconds };
}

/** A part of a photo {left, top, width, height}, in its pixels, shrunk to at most `pixels`: {file, size}. */
export async function redraw({ file, name }, { left, top, width, height }, { pixels = Infinity, bytes = Infinity } = {}) {
  const share = Math.min(1, Math.sqrt(pixels / (width * height)));
  const size = { width: Math.max(1, Math.floor(width * share)), height: Math.max(1, Math.floor(height * share)) };
  const options = { resizeWidth: size.width, resizeHeight: size.height, resizeQuality: "high" };
  const bitmap = await createImageBitmap(file, left, top, width, height, options);
  const canvas = new OffscreenCanvas(size.width, size.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  let blob = file.type === "image/png" ? await canvas.convertToBlob() : null;
  if (!blob || blob.size > bytes) blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  return { file: new File([blob], name, { type: blob.type }), size };
}
