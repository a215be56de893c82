// All photos of this browser as small pictures; the one that is looked at is marked.

import { $, make } from "./dom.js";
import { t } from "./i18n.js";
import { MOVING } from "./runner.js";
import { describe } from "./words.js";

const BADGES = { done: "✓", failed: "!", refused: "!", cancelled: "–", gone: t("expired"), waiting: "…", sending: "…", queued: "…" };
const SPOKEN = { done: t("ready"), ready: t("not_yet") };

export class Tray {
  #buttons = new Map();

  /** `select(photo)` and `remove(photo)` are called for the person; `share(photo)` says how far one is. */
  constructor({ select, remove, removeAll, saveAll, share }) {
    Object.assign(this, { select, remove, share });
    $("remove-all").addEventListener("click", removeAll);
    $("save-all").addEventListener("click", saveAll);
  }

  render({ list, selected }) {
    $("tray").hidden = !list.length;
    $("save-all").hidden = list.filter(({ state }) => state === "done").length < 2;
    for (const photo of this.#buttons.keys()) if (!list.includes(photo)) this.#drop(photo);
    const items = list.map((photo) => this.#item(photo));
    items.forEach((item, place) => {
      if ($("photos").children[place] !== item) $("photos").insertBefore(item, $("photos").children[place] ?? null);
    });
    for (const photo of list) this.#renderOne(photo, photo === selected);
  }

  #drop(photo) {
    const item = this.#item(photo);
    const next = (item.nextElementSibling ?? item.previousElementSibling)?.firstElementChild;
    if (item.contains(document.activeElement)) next?.focus();
    item.remove();
    this.#buttons.delete(photo);
  }

  #item(photo) {
    if (!this.#buttons.has(photo)) {
      const button = make("button", { type: "button", onclick: () => this.select(photo) });
      button.append(
        make("img", { alt: "" }),
        make("span", { class: "name", ariaHidden: "true" }, photo.name),
        make("span", { class: "badge", ariaHidden: "true" }),
        make("progress", { max: 1, ariaHidden: "true" }),
      );
      button.addEventListener("keydown", (event) => {
        if (event.key === "Delete" || event.key === "Backspace") this.remove(photo);
      });
      this.#buttons.set(photo, button);
    }
    const button = this.#buttons.get(photo);
    return button.parentElement ?? make("li", {}, button);
  }

  #renderOne(photo, selected) {
    const button = this.#buttons.get(photo);
    const [picture, name, badge, bar] = button.children;
    const running = photo.state === "running";
    // the strip alone, not the page
    if (selected && button.getAttribute("aria-current") !== "true") $("photos").scrollLeft = button.offsetLeft - $("photos").clientWidth / 2;
    button.setAttribute("aria-current", String(selected));
    button.title = photo.name;
    button.setAttribute("aria-label", `${photo.name}: ${MOVING.includes(photo.state) ? t("under_way") : SPOKEN[photo.state] ?? describe(photo)}`);
    picture.hidden = !(name.hidden = Boolean(photo.thumbnail));
    if (photo.thumbnail && !picture.src) picture.src = photo.thumbnail;
    badge.textContent = BADGES[photo.state] ?? "";
    badge.hidden = running || !badge.textContent;
    bar.hidden = !running;
    bar.value = running ? this.share(photo) ?? 0 : 0;
  }
}
