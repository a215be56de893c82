// Scale, fidelity and steps: each a number beside a range.

import { $ } from "./dom.js";
import { megapixels, sides } from "./words.js";

const NAMES = ["scale", "fidelity", "steps"];

export class Settings {
  /** `change` is called after every change. */
  constructor(change) {
    for (const name of NAMES) {
      const [number, range] = [$(name), $(`${name}-range`)];
      number.addEventListener("input", () => {
        if (number.value !== "") range.value = number.value;
        change();
      });
      range.addEventListener("input", () => {
        number.value = range.value;
        change();
      });
    }
  }

  /** The model's own settings and bounds. */
  setUp(model, limits) {
    this.limits = limits;
    Object.assign($("scale"), { min: model.min_scale, max: model.max_scale });
    Object.assign($("scale-range"), { min: model.min_scale, max: model.max_scale });
    for (const end of ["min", "max"]) $("steps")[end] = model[`${end}_steps`];
    $("steps-range").min = model.min_steps;
    for (const name of NAMES) $(name).value = $(`${name}-range`).value = model[name];
    // left empty, they are for the model to decide
    $("fidelity").value = $("steps").value = "";
  }

  get options() {
    const filled = NAMES.filter((name) => $(name).value !== "");
    return Object.fromEntries(filled.map((name) => [name, $(name).valueAsNumber]));
  }

  /** What keeps the photo from being sent with these settings, "" for nothing. */
  trouble(photo) {
    const wrong = NAMES.find((name) => !$(name).checkValidity());
    if (wrong) return `${$(wrong).labels[0].textContent}: ${$(wrong).validationMessage}`;
    const pixels = photo?.size ? photo.size.width * photo.size.height * $("scale").valueAsNumber ** 2 : 0;
    const most = this.limits?.max_output_pixels ?? Infinity;
    return pixels > most
      ? `The result would have ${megapixels(pixels)}; this server makes up to ${megapixels(most)}. Choose a smaller scale.`
      : "";
  }

  render(photo) {
    const { scale, fidelity } = this.options;
    const size = photo?.size;
    const result = size && { width: Math.round(size.width * scale), height: Math.round(size.height * scale) };
    $("sizes").textContent = result && scale > 0 ? `${sides(size)} → ${sides(result)} pixels` : "";
    const hint = "Left empty, the model decides. More steps take longer.";
    $("steps-hint").textContent = fidelity === 1 ? "At fidelity 1 the number of steps changes nothing." : hint;
  }
}
