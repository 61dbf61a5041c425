/** Diagnoses as cards, in the words of the console. */

import {button, element} from "./element.js";

const MOST = 8;

/** Returns diagnoses with their ids, newest first. */
export function newestFirst(run, diagnoses) {
  return diagnoses
    .map((known, i) => ({...known, id: `${run}#${i}`, i}))
    .sort((a, b) => (b.step ?? -1) - (a.step ?? -1) || b.i - a.i);
}

/**
 * Returns a card.
 *
 * @param {Object} known A diagnosis, as the server tells it, and its `id`.
 * @param {boolean} isOpen Whether all of it is shown.
 * @param {function()} toggle Opens and closes it.
 */
export function card(known, isOpen, toggle) {
  const head = button(known.headline, toggle, {
    class: "plain headline", "aria-expanded": String(isOpen),
    "data-card": known.id,
  });
  const when = [
    known.step === null ? null : `step ${known.step}`,
    known.epoch === null ? null : `epoch ${known.epoch}`,
    known.certainty === "suspected" ? "suspected, not proved" : null,
    known.is_earlier ? "from an earlier training" : null,
  ].filter((text) => text !== null).join(", ");
  return element("article", {
    class: `card ${known.severity}`, "data-code": known.code,
  },
  element("h4", {}, head), element("p", {class: "when"}, when),
  ...(isOpen ? body(known) : []));
}

function body(known) {
  return [
    known.place && element("p", {class: "place"}, `--> ${known.place}`),
    known.snippet_first_line === null ? null : snippet(known),
    facts(known.facts),
    known.variables.length > MOST ? variables(known.variables) : null,
    ...known.help.flatMap((item, i) => help(item, known.changes[i])),
    element("p", {class: "more"}, "more: ",
      element("code", {}, known.more)),
  ];
}

function snippet(known) {
  const first = known.snippet_first_line;
  const lines = known.snippet.map((text, i) => {
    const isGuilty = first + i === known.line;
    const mark = isGuilty ? ">" : " ";
    return element("span", {class: isGuilty ? "guilty" : null},
      `${mark}${String(first + i).padStart(3)} | ${text}\n`);
  });
  return element(
    "pre", {class: "snippet", tabindex: 0, "aria-label": "Source lines"},
    ...lines);
}

function facts(pairs) {
  return element("dl", {}, ...pairs.flatMap(([label, text]) => [
    element("dt", {}, label), element("dd", {}, text)]));
}

function variables(paths) {
  return element("details", {},
    element("summary", {}, `all ${paths.length} variables`),
    element("ul", {class: "paths"},
      ...paths.map((path) => element("li", {}, path))));
}

function help({text, checked}, lines) {
  const code = lines.map((line) => element(
    "span", {class: line.startsWith("-") ? "before" : "after"}, `${line}\n`));
  return [
    element("p", {class: "help"}, element("b", {}, "help: "),
      checked ? `${text} (checked: ${checked})` : text),
    lines.length ? element(
      "pre", {class: "change", tabindex: 0, "aria-label": "Code change"},
      ...code) : null,
  ];
}
