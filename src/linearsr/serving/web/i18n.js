// The page's words in the browser's language: one file a language in locales/.

const LANGUAGES = ["en", "de", "fr", "es", "ja", "zh"];

const wanted = navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase());
export const language = wanted.find((tag) => LANGUAGES.includes(tag)) ?? "en";

const words = await (await fetch(`locales/${language}.json`)).json();
const plural = new Intl.PluralRules(language);
const number = new Intl.NumberFormat(language, { maximumSignificantDigits: 3 });

export const has = (key) => key in words;

/** The words for a key, with {names} replaced by `values`; `values.count` chooses between singular and plural. */
export function t(key, values = {}) {
  const found = words[key];
  const text = typeof found === "string" ? found : found[plural.select(values.count)] ?? found.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name] ?? whole;
    return typeof value === "number" ? number.format(value) : value;
  });
}

/** A number with its unit, as Intl names it: "hour", "megabyte". */
export const unit = (value, name, unitDisplay = "long") =>
  new Intl.NumberFormat(language, { style: "unit", unit: name, unitDisplay, maximumSignificantDigits: 3 }).format(value);

/** Write the words into the page: data-t is the text, data-t-label and the like are attributes. */
export function translate() {
  document.documentElement.lang = language;
  const attributes = { label: "aria-label", placeholder: "placeholder", drop: "data-drop" };
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const [name, attribute] of Object.entries(attributes))
    for (const element of document.querySelectorAll(`[data-t-${name}]`))
      element.setAttribute(attribute, t(element.getAttribute(`data-t-${name}`)));
}
