// What is in the photo: tags that guide a model which is guided by tags, and information elsewhere.

import { $, make, say } from "./dom.js";

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
    const { guided_by_tags: guided, tagger } = this.#model;
    $("tags").hidden = !guided && !(tagger && photo.found?.length);
    if ($("tags").hidden) return;
    const tags = guided ? this.#tags : [];
    const found = (photo.found ?? []).map(({ tag }) => tag).filter((tag) => !tags.includes(tag));
    $("new-tag-row").hidden = $("chosen").hidden = !guided;
    $("chosen").replaceChildren(...tags.map((tag) => this.#chip(tag, "×", `Remove ${tag}`, () => this.#remove(tag))));
    $("found").replaceChildren(
      ...found.map((tag) => (guided ? this.#chip(tag, "+", `Add ${tag}`, () => this.#add(tag)) : make("li", {}, make("span", {}, tag)))),
    );
    $("found-title").textContent = this.#explain(guided, found.length);
  }

  get #tags() {
    const byItself = this.#model.uses_tags ? (this.#photo.found ?? []).map(({ tag }) => tag) : [];
    return this.#photo.tags ?? byItself;
  }

  #explain(guided, others) {
    if (!guided) return "Seen in the photo, for your information: this model works without tags.";
    if (others) return "Seen in the photo:";
    return this.#photo.found ? "" : "Tags are found when the photo is enlarged.";
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
    this.#set([...this.#tags.filter((other) => other !== tag), tag], `${tag} added`);
  }

  #remove(tag) {
    this.#set(this.#tags.filter((other) => other !== tag), `${tag} removed`);
    // the button that had the focus is gone
    $("new-tag").focus();
  }

  #set(tags, said) {
    this.change(this.#photo, tags);
    say(said);
  }
}
