/** How the runs are shown: filter, folding, values, shape. */

import {element} from "./element.js";

/** The controls beside the list of runs. */
export class Options {
  /** @param {State} state What the user has chosen. */
  constructor(state) {
    this.state = state;
    this.filter = element("input", {
      type: "search", id: "filter", value: state.filter, spellcheck: "false",
      placeholder: "dense kernel", "aria-describedby": "filter-fault",
      on: {input: () => state.set({filter: this.filter.value})},
    });
    this.fault = element("p", {
      id: "filter-fault", class: "alert", role: "alert", hidden: true,
    });
    this.selects = [
      this.select("Rows", "rows", [
        ["layers", "layers, folded"], ["variables", "all variables"]]),
      this.select("Height", "height", [
        ["line", "one line each"], ["all", "all in view"]]),
      this.select("Values", "values", [
        ["norms", "gradient norm"], ["updates", "update / weight"]]),
      this.select("View", "shape", [
        ["heatmap", "heatmap"], ["table", "table"]]),
    ];
    this.root = element("section", {class: "options", "aria-label": "Options"},
      element("label", {for: "filter"}, "Filter (words or /expression/)"),
      this.filter, this.fault, ...this.selects.map(({root}) => root));
  }

  select(label, name, choices) {
    const input = element("select", {id: name, on: {change: () => {
      const changes = {[name]: input.value};
      if (name === "rows") changes.toggled = [];
      this.state.set(changes);
    }}}, ...choices.map(([value, text]) => element("option", {value}, text)));
    return {input, name, root: element("label", {class: "choice"},
      element("span", {}, label), input)};
  }

  /**
   * Shows what is chosen.
   *
   * @param {number} mostVariables Decides where nothing is chosen.
   * @param {string} fault What is wrong with the filter, or "".
   */
  update(mostVariables, fault) {
    const {state} = this;
    this.fault.hidden = !fault;
    this.filter.setAttribute("aria-invalid", String(fault !== ""));
    if (this.fault.textContent !== fault) this.fault.textContent = fault;
    if (this.filter !== document.activeElement) {
      this.filter.value = state.filter;
    }
    for (const {input, name} of this.selects) {
      const rows = state.isOpen(null, mostVariables) ? "variables" : "layers";
      input.value = name === "rows" ? state.rows ?? rows : state[name];
    }
  }
}
