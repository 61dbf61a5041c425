/** The curves of the pinned variables, below the heatmaps. */

import {curve} from "./curve.js";
import {element} from "./element.js";

/** Shows a curve for each pinned variable. */
export class Pins {
  /** @param {State} state What the user has chosen. */
  constructor(state) {
    this.state = state;
    this.root = element(
      "section", {class: "pins", "aria-label": "Pinned variables"});
  }

  /** Draws the curves of `run` and `table` pairs, the newest first. */
  update(runs) {
    const {pins, values} = this.state;
    const what = values === "norms" ? "gradient norm" : "update / weight";
    const width = Math.max(240, this.root.parentElement.clientWidth - 24);
    const {activeElement} = document;
    const held = this.root.contains(activeElement)
      ? activeElement.closest("[data-key]")?.dataset.key : null;
    const curves = pins.toReversed().map((key) => curve(
      key, linesOf(runs, key, values), width, what,
      () => this.state.toggle("pins", key)));
    this.root.replaceChildren(...curves);
    this.root.hidden = !pins.length;
    curves.find(({dataset}) => dataset.key === held)
      ?.querySelector("button").focus();
  }
}

function linesOf(runs, key, values) {
  const lines = [];
  for (const {run, table} of runs) {
    if (!table) continue;
    const place = table.variables.findIndex((known) => known.key === key);
    const number = table.columns.length;
    if (place < 0) continue;
    const cells = table[values].subarray(place * number, (place + 1) * number);
    lines.push({run, columns: table.columns, cells});
  }
  return lines;
}
