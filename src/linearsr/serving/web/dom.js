// Short words for the browser's long ones.

export const $ = (id) => document.getElementById(id);

/** An element with properties ("class" and attributes too) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Say something to those who listen to the page. */
export function say(text) {
  $("live").textContent = text;
}
