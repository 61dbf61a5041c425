/** Elements of the page. A text only ever becomes a text node. */

/**
 * Makes an element.
 *
 * @param {string} name Tag name.
 * @param {Object} known Attributes; `on` holds listeners by event. One that
 *     is false, null or undefined is left out; true stands for "".
 * @param {...(Node|string|null)} children What is in it; null is left out.
 */
export function element(name, known = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(known)) {
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) {
        made.addEventListener(event, listener);
      }
    } else {
      setAttribute(made, key, value);
    }
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Sets an attribute, or takes it away where the value says "no". */
export function setAttribute(made, key, value) {
  if (value === false || value == null) made.removeAttribute(key);
  else made.setAttribute(key, value === true ? "" : String(value));
}

/** Makes a push button. */
export function button(text, onClick, known = {}) {
  return element(
    "button", {type: "button", on: {click: onClick}, ...known}, text);
}

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element of a drawing. */
export function drawn(name, known = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(known)) {
    made.setAttribute(key, String(value));
  }
  made.append(...children);
  return made;
}

/** Says what went wrong, at once and aloud. */
export function alert(text) {
  return element("p", {class: "alert", role: "alert"}, text);
}
