/** What the colours mean. */

import {NAMES} from "./cells.js";
import {element} from "./element.js";
import {COLOURS, DECADES, css, gradient} from "./scale.js";

/** Returns the legend of the colours of "norms" or "updates". */
export function legend(values) {
  const [low, high] = DECADES[values];
  const what = values === "norms" ? "Gradient norm" : "Update / weight";
  const signs = Object.entries(COLOURS).map(([kind, colour]) => element(
    "li", {},
    element("span", {class: "swatch", style: `background: ${css(colour)}`}),
    NAMES[kind]));
  const blank = element("li", {},
    element("span", {class: "swatch blank"}), NAMES.unmeasured);
  return element("section", {class: "legend", "aria-label": "Colours"},
    element("h2", {}, what),
    element("div", {
      class: "scale", role: "img", style: `background: ${gradient()}`,
      "aria-label": `Colours from 1e${low}, dark, to 1e${high}, light`,
    }),
    element("div", {class: "ends", "aria-hidden": "true"},
      ...[low, (low + high) / 2, high].map(
        (decade) => element("span", {}, `1e${decade}`))),
    element("ul", {}, ...signs, blank));
}

const WAYS = [
  "Click a layer to show its variables. Click a variable to pin its curve and "
    + "open its card.",
  "Drag across steps to zoom in.",
  "Filter: rows whose path contains all of the words, in any order, or a "
    + "regular expression between slashes, such as /kernel|bias/.",
  "Keys: arrows move (with Shift ten steps), Enter selects, + and − zoom, "
    + "0 shows all steps.",
];

/** Returns what mouse and keyboard do. */
export function ways() {
  return element("details", {class: "keys"},
    element("summary", {}, "Mouse and keys"),
    element("ul", {}, ...WAYS.map((text) => element("li", {}, text))));
}
