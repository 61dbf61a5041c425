/** The verdict on a run: that of the report of its training, in its words. */

import {element} from "./element.js";

/** By title: what stands before the word, for those who see no colour. */
const MARKS = {
  broken: "✗", healthy: "✓", undecided: "?", "not checked": "–",
  "no verdict yet": "…",
};

/** Returns the word, its mark and its colour. */
export function verdictBadge(title) {
  const kind = title.replaceAll(" ", "-");
  return element("span", {class: `verdict ${kind}`},
    element("span", {"aria-hidden": "true"}, `${MARKS[title]} `), title);
}

/** Returns what stands below it, or null. */
export function verdictFacts({facts}) {
  return facts.length ? element("ul", {class: "facts"},
    ...facts.map((text) => element("li", {}, text))) : null;
}
