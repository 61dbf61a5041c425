/** The list of runs, a check box each. */

import {element} from "./element.js";
import {verdictBadge} from "./verdict.js";

const FIRST = 4;

/** Returns the names of the runs that are shown. */
export function chosen(runs, state) {
  const names = runs.map(({run}) => run);
  if (state.runs === null) return names.slice(0, FIRST);
  return names.filter((name) => state.runs.includes(name));
}

/** Lets the user choose runs. */
export class Runs {
  /** @param {State} state What the user has chosen. */
  constructor(state) {
    this.state = state;
    this.root = element("fieldset", {class: "runs"});
    this.known = "";
  }

  /** Takes in the runs that there are. */
  update(runs) {
    const names = chosen(runs, this.state);
    const content = JSON.stringify([runs, names]);
    // Anew only if it is: the focus stays.
    if (content === this.known) return;
    this.known = content;
    const held = this.root.contains(document.activeElement)
      ? document.activeElement.value : null;
    const boxes = runs.map((known) => this.box(known, names));
    this.root.replaceChildren(element("legend", {}, "Runs"), ...boxes);
    if (held !== null) {
      [...this.root.querySelectorAll("input")]
        .find(({value}) => value === held)?.focus();
    }
    this.runs = runs;
  }

  box({error, num_diagnoses: number, run, verdict}, names) {
    const input = element("input", {
      type: "checkbox", value: run, checked: names.includes(run),
      on: {change: () => this.toggle(run)},
    });
    let told = number === 1 ? "1 diagnosis" : `${number} diagnoses`;
    if (error !== null) told = "cannot be read";
    else if (!number) told = null;
    return element("label", {}, input, element("span", {class: "run-name"},
      `${run} `, verdict && verdictBadge(verdict), " ",
      told && element("span", {class: "badge code"}, told)));
  }

  toggle(run) {
    const names = chosen(this.runs, this.state);
    const isIn = names.includes(run);
    this.state.set({
      runs: isIn ? names.filter((name) => name !== run) : [...names, run],
    });
  }
}
