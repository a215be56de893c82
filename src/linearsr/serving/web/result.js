// A finished photo: what it was made with, and saving it.

import { $ } from "./dom.js";
import { t } from "./i18n.js";
import { Saving, save } from "./saving.js";
import { megabytes, sides } from "./words.js";
import { zip } from "./zip.js";

const NAMES = { png: "PNG", jpg: "JPG", webp: "WebP", tiff: "TIFF" };

export class Result {
  #photo = null;

  /** `fail(error)` is called when a result cannot be fetched; `saved(photo)` when it has been. */
  constructor(api, { fail, saved }) {
    this.api = api;
    this.fail = fail;
    this.saved = saved;
    this.saving = new Saving(() => this.render(this.#photo));
    $("download").addEventListener("click", () => this.#during("download", () => this.#save(this.#photo)));
    $("copy").addEventListener("click", () => this.#during("copy", () => this.#copy(this.#photo)));
    // browsers allow it on safe origins only
    $("copy").hidden = !navigator.clipboard?.write;
  }

  render(photo) {
    this.#photo = photo;
    $("result").hidden = photo?.state !== "done";
    if ($("result").hidden) return;
    const { output, options, warnings = [], tags = [], unknown_tags: unknown = [] } = photo.job;
    const parts = [
      t("made.pixels", { size: sides(output) }),
      `×${Number(options.scale.toPrecision(3))}`,
      options.fidelity === null ? null : t("made.fidelity", { fidelity: options.fidelity }),
      photo.job.steps > 1 ? t("made.steps", { count: photo.job.steps }) : null,
      tags.length ? t("made.tags", { tags: tags.join(", ") }) : null,
    ];
    $("made").textContent = parts.filter(Boolean).map((part) => part.replaceAll(" ", "\u00a0")).join(" · ");
    const remarks = [...warnings];
    if (unknown.length) remarks.push(t("tags.unknown", { tags: unknown.join(", ") }));
    $("warnings").hidden = !remarks.length;
    $("warnings").textContent = remarks.join(" ");
    // the size is the server's own file's, a PNG: only the note on PNG says it
    $("format-note").textContent = t(`note.${this.saving.format}`, { size: megabytes(output.bytes) });
    const labels = { download: t("download", { format: NAMES[this.saving.format] }), copy: t("copy") };
    for (const [button, label] of Object.entries(labels)) if (!$(button).disabled) $(button).textContent = label;
  }

  /** All results as one file. */
  async saveAll(photos) {
    await this.#during("save-all", async () => {
      const files = [];
      for (const photo of photos) files.push({ name: this.saving.name(photo), blob: await this.#fetch(photo) });
      const packed = await zip(files).catch((error) => {
        throw error instanceof RangeError ? new Error(t("zip.large")) : error;
      });
      save(packed, "LinearSR.zip");
      photos.forEach(this.saved);
    });
  }

  #fetch(photo) {
    return this.api.result(photo.job.id, this.saving.format, this.saving.stripped);
  }

  async #save(photo) {
    save(await this.#fetch(photo), this.saving.name(photo));
    this.saved(photo);
  }

  async #copy(photo) {
    // Safari wants the promise: the click is over when the picture is there
    const picture = this.api.result(photo.job.id, "png", this.saving.stripped);
    await navigator.clipboard.write([new ClipboardItem({ "image/png": picture })]).catch(async () => {
      await picture;
      throw new Error(t("copy.failed"));
    });
    return t("copied");
  }

  /** The server may convert for half a minute. Afterwards the button says what `action` returns, or what it said before. */
  async #during(button, action) {
    const label = $(button).textContent;
    $(button).textContent = t("preparing");
    $(button).disabled = true;
    const said = await action().catch(this.fail);
    $(button).disabled = false;
    $(button).textContent = label;
    this.render(this.#photo);
    if (said) $(button).textContent = said;
  }
}
