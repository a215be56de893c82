// How results are saved: format, file name, and whether camera data goes along. This browser remembers the choice.

import { $ } from "./dom.js";
import { t } from "./i18n.js";

const SHELF = "linearsr-saving";
const PATTERN = "{name}_x{scale}";

export class Saving {
  constructor(change) {
    const { format, stripped, pattern } = JSON.parse(localStorage.getItem(SHELF) ?? "{}");
    const kept = document.querySelector(`input[name=format][value="${format}"]`);
    if (kept) kept.checked = true;
    $("strip").checked = Boolean(stripped);
    $("pattern").placeholder = PATTERN;
    $("pattern").value = pattern ?? "";
    $("saving").addEventListener("input", () => {
      localStorage.setItem(SHELF, JSON.stringify({ format: this.format, stripped: this.stripped, pattern: $("pattern").value }));
      change();
    });
  }

  get format() {
    return document.querySelector("input[name=format]:checked").value;
  }

  get stripped() {
    return $("strip").checked;
  }

  /** "holiday.jpg" at x4 -> "holiday_x4.png"; what a file name cannot hold becomes a dash. */
  name({ name, options, job }) {
    const values = {
      name: name.replace(/\.[^.]*$/, "") || "photo",
      scale: Number(options.scale.toPrecision(3)),
      fidelity: options.fidelity ?? t("auto"),
      ...job.output,
    };
    const filled = ($("pattern").value.trim() || PATTERN).replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
    return `${filled.replace(/[\\/:*?"<>|\p{Cc}]/gu, "-")}.${this.format === "tiff" ? "tif" : this.format}`;
  }
}

export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  // the browser reads it after the click
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
