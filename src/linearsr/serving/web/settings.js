// How large a photo becomes and how it shall look. What is left empty is for the model to decide.

import { $ } from "./dom.js";
import { t } from "./i18n.js";
import { megapixels, sides } from "./words.js";

const NAMES = ["scale", "width", "fidelity", "steps"];
/** One of the two says how large the result is. */
const OTHER = { scale: "width", width: "scale" };
const presets = () => document.querySelectorAll("#presets button");
const looks = () => document.querySelectorAll("input[name=look]");

export class Settings {
  /** `change` is called after every change. */
  constructor(change) {
    for (const name of NAMES)
      $(name).addEventListener("input", () => {
        if ($(name).value !== "" && name in OTHER) $(OTHER[name]).value = "";
        change();
      });
    for (const button of presets())
      button.addEventListener("click", () => {
        for (const name of ["scale", "width"]) $(name).value = button.dataset[name] ?? "";
        change();
      });
    for (const radio of looks())
      radio.addEventListener("change", () => {
        $("fidelity").value = radio.value;
        change();
      });
  }

  /** The model's own settings and bounds. */
  setUp(model, limits) {
    this.model = model;
    this.limits = limits;
    Object.assign($("scale"), { min: model.min_scale, max: model.max_scale, value: model.scale });
    for (const end of ["min", "max"]) $("steps")[end] = model[`${end}_steps`];
    for (const part of [$("steps"), $("steps").labels[0], $("steps-hint")]) part.hidden = !model.max_steps;
    for (const button of presets())
      button.ariaLabel = button.dataset.scale ? t("times", { count: Number(button.dataset.scale) }) : t("wide", { width: button.dataset.width });
  }

  /** What a photo is sent with; `scale` is NaN if its width is asked for and not known. */
  options(photo) {
    const filled = ["fidelity", "steps"].filter((name) => $(name).value !== "");
    return { scale: this.#scale(photo), ...Object.fromEntries(filled.map((name) => [name, $(name).valueAsNumber])) };
  }

  /** What keeps the photo from being sent with these settings, "" for nothing. */
  trouble(photo) {
    const wrong = NAMES.find((name) => !$(name).checkValidity());
    if (wrong) return `${$(wrong).labels[0].textContent}: ${$(wrong).validationMessage}`;
    const { scale } = this.options(photo);
    if (Number.isNaN(scale)) return t("trouble.unknown");
    const { min_scale: least, max_scale: most } = this.model;
    if (scale < least || scale > most) {
      const wide = (times) => String(photo.size.width * times);
      return t("trouble.width", { least: wide(least), most: wide(most) });
    }
    const pixels = photo.size ? photo.size.width * photo.size.height * scale ** 2 : 0;
    const limit = this.limits.max_output_pixels;
    return pixels > limit ? t("trouble.output", { megapixels: megapixels(pixels), limit: megapixels(limit) }) : "";
  }

  render(photo) {
    const { scale, fidelity } = this.options(photo);
    const size = photo.size;
    const result = size && { width: Math.round(size.width * scale), height: Math.round(size.height * scale) };
    $("sizes").textContent = result && scale > 0 ? t("sizes", { from: sides(size), to: sides(result) }) : "";
    $("scale").placeholder = scale > 0 ? Number(scale.toPrecision(3)) : "";
    $("width").placeholder = result && scale > 0 ? result.width : "";
    for (const button of presets())
      button.ariaPressed = String(["scale", "width"].every((name) => $(name).value === (button.dataset[name] ?? "")));
    for (const radio of looks()) radio.checked = radio.value === $("fidelity").value;
    $("steps-hint").textContent = t(fidelity === 1 ? "steps.none" : "steps.hint");
  }

  #scale(photo) {
    if ($("width").value === "") return $("scale").value === "" ? this.model.scale : $("scale").valueAsNumber;
    return photo.size ? $("width").valueAsNumber / photo.size.width : NaN;
  }
}
