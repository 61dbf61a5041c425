/** Which term of the loss reaches which variable. */

import {figure} from "./cells.js";
import {button, element} from "./element.js";

const MOST = 60;

/**
 * Returns the matrix, neighbours that are reached alike in one row.
 *
 * @param {string} run Name of the run.
 * @param {Object} losses As the server tells them.
 * @param {boolean} isWhole Whether all rows are shown, however many.
 * @param {function()} showAll Shows them.
 */
export function matrix(run, {step, terms, variables}, isWhole, showAll) {
  const groups = groupsOf(terms, variables);
  const shown = isWhole ? groups : groups.slice(0, MOST);
  const heads = terms.map(({kind, name}) => element("th", {scope: "col"},
    name, kind === "loss" ? null : element("small", {}, ` ${kind}`)));
  const notes = terms.filter(({note}) => note !== null);
  const when = step === null ? "" : `, step ${step}`;
  return element("div", {
    class: "matrix", tabindex: 0, role: "region",
    "aria-label": `Losses of ${run}`,
  },
  element("table", {},
    element("caption", {}, `Which loss reaches which variable${when}: ` +
      "norm of its gradient"),
    element("thead", {}, element("tr", {},
      element("th", {scope: "col"}, "variable"), ...heads)),
    element("tbody", {},
      ...shown.map((group) => rowOf(group, terms, variables)))),
  ...notes.map(({name, note}) => element("p", {class: "note"},
    `${name}: ${note}`)),
  shown.length < groups.length
    ? button(`Show all ${groups.length} rows`, showAll) : null);
}

/** Variables of one layer stand together if the same terms reach them. */
function groupsOf(terms, variables) {
  const groups = [];
  variables.forEach((key, number) => {
    const layer = key.slice(0, Math.max(0, key.lastIndexOf("/")));
    const reached = terms.map(({reaches}) => reaches[number]).join();
    const last = groups.at(-1);
    if (last && layer && last.layer === layer && last.reached === reached) {
      last.members.push(number);
    } else {
      groups.push({layer, reached, members: [number]});
    }
  });
  return groups;
}

function rowOf({layer, members}, terms, variables) {
  const name = members.length > 1
    ? `${layer} (${members.length})` : variables[members[0]];
  const cells = terms.map(({norms, reaches}) => {
    if (!reaches[members[0]]) {
      return element("td", {class: "unreached"}, "not reached");
    }
    return element("td", {class: "reached"},
      norms === null ? "reached" : normOf(members.map((i) => norms[i])));
  });
  const isLost = terms.every(({reaches}) => !reaches[members[0]]);
  return element("tr", {class: isLost ? "lost" : null},
    element("th", {scope: "row"}, element("bdi", {}, name)), ...cells);
}

function normOf(norms) {
  // JSON has no NaN and no Inf: they come as text.
  const texts = norms.filter((norm) => typeof norm === "string");
  if (texts.length) return texts.find((t) => /nan/i.test(t)) ?? texts[0];
  const known = norms.filter((norm) => norm !== null);
  return known.length ? figure(Math.max(...known), 3) : "reached";
}
