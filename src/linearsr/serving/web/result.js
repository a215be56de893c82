// A finished photo: what it was made with, and saving it.

import { $ } from "./dom.js";
import { resultName, sides } from "./words.js";

const NOTES = {
  png: "Lossless. Colour profile, EXIF and transparency are kept.",
  jpg: "Smallest for photos. Colour profile and EXIF are kept; transparency becomes white.",
  webp: "Small. Colour profile, EXIF and transparency are kept.",
  tiff: "Lossless, for editors. Colour profile, EXIF and transparency are kept.",
};

const chosen = () => document.querySelector("input[name=format]:checked").value;

export class Result {
  #photo = null;

  /** `fail(error)` is called when the result cannot be fetched; `saved(photo)` when it has been. */
  constructor(api, { fail, saved }) {
    this.api = api;
    for (const radio of document.querySelectorAll("input[name=format]"))
      radio.addEventListener("change", () => this.render(this.#photo));
    $("download").addEventListener("click", () => this.#save(this.#photo, chosen()).then(saved, fail));
  }

  render(photo) {
    this.#photo = photo;
    $("result").hidden = photo?.state !== "done";
    if ($("result").hidden) return;
    const { output, options, warnings = [], tags = [], unknown_tags: unknown = [] } = photo.job;
    const parts = [
      `${sides(output)} pixels`,
      `×${options.scale}`,
      options.fidelity === null ? null : `fidelity ${options.fidelity}`,
      `${photo.job.steps} step${photo.job.steps === 1 ? "" : "s"}`,
      tags.length ? `guided by ${tags.join(", ")}` : null,
    ];
    $("made").textContent = parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
    const remarks = [...warnings, ...(unknown.length ? [`Tags that this model does not know: ${unknown.join(", ")}`] : [])];
    $("warnings").hidden = !remarks.length;
    $("warnings").textContent = remarks.join(" ");
    $("format-note").textContent = NOTES[chosen()];
    $("download").textContent = `Download ${chosen() === "webp" ? "WebP" : chosen().toUpperCase()}`;
  }

  async #save(photo, format) {
    $("download").disabled = true;
    try {
      const address = URL.createObjectURL(await this.api.result(photo.job.id, format));
      Object.assign(document.createElement("a"), { href: address, download: resultName(photo, format) }).click();
      // the browser reads it after the click
      setTimeout(() => URL.revokeObjectURL(address), 60_000);
      return photo;
    } finally {
      $("download").disabled = false;
    }
  }
}
