// Tags that guide a model which is guided by tags; other models have none here.

import { $, make, say } from "./dom.js";
import { t } from "./i18n.js";

const normal = (text) => text.trim().replace(/\s+/g, " ").toLowerCase();

export class Tags {
  #model = null;
  #photo = null;

  /** `change(photo, tags)` is called when the person changes the tags. */
  constructor(change) {
    this.change = change;
    $("add-tag").addEventListener("click", () => this.#addTyped());
    $("new-tag").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !$("new-tag").value.trim()) return;
      event.preventDefault();
      this.#addTyped();
    });
  }

  setUp(model) {
    this.#model = model;
    $("vocabulary").replaceChildren(...(model.vocabulary ?? []).map((value) => make("option", { value })));
  }

  /** The `tags` option of a request: null leaves it to the model. */
  static option(photo) {
    return photo.tags?.join(", ") ?? null;
  }

  render(photo) {
    this.#photo = photo;
    $("tags").hidden = !this.#model.guided_by_tags;
    if ($("tags").hidden) return;
    const tags = this.#tags;
    const found = (photo.found ?? []).map(({ tag }) => tag).filter((tag) => !tags.includes(tag));
    $("chosen").replaceChildren(...tags.map((tag) => this.#chip(tag, "×", t("tag.remove", { tag }), () => this.#remove(tag))));
    $("found").replaceChildren(...found.map((tag) => this.#chip(tag, "+", t("tag.add", { tag }), () => this.#add(tag))));
    $("found-title").textContent = found.length ? t("tags.seen") : photo.found ? "" : t("tags.later");
  }

  get #tags() {
    const byItself = this.#model.uses_tags ? (this.#photo.found ?? []).map(({ tag }) => tag) : [];
    return this.#photo.tags ?? byItself;
  }

  #chip(tag, sign, label, action) {
    return make("li", {}, make("button", { type: "button", ariaLabel: label, onclick: action }, tag, make("b", { ariaHidden: "true" }, sign)));
  }

  #addTyped() {
    for (const tag of $("new-tag").value.split(",").map(normal).filter(Boolean)) this.#add(tag);
    $("new-tag").value = "";
    $("new-tag").focus();
  }

  #add(tag) {
    this.#set([...this.#tags.filter((other) => other !== tag), tag], t("tag.added", { tag }));
  }

  #remove(tag) {
    this.#set(this.#tags.filter((other) => other !== tag), t("tag.removed", { tag }));
    // the button that had the focus is gone
    $("new-tag").focus();
  }

  #set(tags, said) {
    this.change(this.#photo, tags);
    say(said);
  }
}
