/** The heatmap as a table of numbers, a page at a time. */

import {NAMES, UNMEASURED, kindOf, textOf} from "./cells.js";
import {button, element} from "./element.js";

const MOST_ROWS = 50;
const MOST_COLUMNS = 6;

/** A table of a run, the last steps first shown. */
export class Grid {
  /**
   * @param {string} run Name of the run.
   * @param {function(Object)} choose Called with the row that is chosen.
   */
  constructor(run, choose) {
    this.run = run;
    this.choose = choose;
    this.top = 0;
    this.back = 0; // pages before the last steps
    this.place = element("span", {class: "place", role: "status"});
    this.turns = [
      ["Earlier steps", () => { this.back += 1; }],
      ["Later steps", () => { this.back -= 1; }],
      ["Rows above", () => { this.top -= MOST_ROWS; }],
      ["Rows below", () => { this.top += MOST_ROWS; }],
    ].map(([text, turn]) => button(text, () => {
      turn();
      this.draw(this.picture);
    }));
    this.holder = element("div", {
      class: "holder", tabindex: 0, role: "region",
      "aria-label": `Numbers of ${run}`,
    });
    this.root = element("div", {class: "table"},
      element("div", {class: "turns"}, ...this.turns, this.place),
      this.holder);
  }

  /** Turns to the page of a row. */
  reveal(place) {
    this.top = place - place % MOST_ROWS;
    this.draw(this.picture);
  }

  /** Draws a `Picture`, see `heatmap.js`. */
  draw(picture) {
    this.picture = picture;
    const {columns, rows} = picture;
    const most = Math.max(0, Math.ceil(columns.length / MOST_COLUMNS) - 1);
    this.back = Math.max(0, Math.min(this.back, most));
    const last = Math.max(0, Math.ceil(rows.length / MOST_ROWS) - 1);
    this.top = Math.max(0, Math.min(this.top, last * MOST_ROWS));
    const end = columns.length - this.back * MOST_COLUMNS;
    const start = Math.max(0, end - MOST_COLUMNS);
    const below = Math.min(rows.length, this.top + MOST_ROWS);
    const canTurn = [
      start > 0, this.back > 0, this.top > 0, below < rows.length];
    this.turns.forEach((turn, i) => { turn.disabled = !canTurn[i]; });
    this.place.textContent = `rows ${this.top + 1} to ${below} of ` +
      `${rows.length}, columns ${start + 1} to ${end} of ${columns.length}`;
    const held = this.holder.contains(document.activeElement)
      ? document.activeElement.dataset.place : null;
    this.holder.replaceChildren(this.table(start, end, below));
    if (held != null) {
      this.holder.querySelector(`[data-place="${held}"]`)?.focus();
    }
  }

  table(start, end, below) {
    const {columns, rows, values} = this.picture;
    const heads = columns.slice(start, end).map(([first, last]) => element(
      "th", {scope: "col"}, first === last ? `${last}` : `${first}–${last}`));
    const places = rows.slice(this.top, below).map((_, i) => this.top + i);
    const what = values === "norms" ? "Gradient norms" : "Update / weight";
    return element("table", {},
      element("caption", {}, `${what} of ${this.run} by step`),
      element("thead", {}, element("tr", {},
        element("th", {scope: "col"}, "variable"), ...heads)),
      element("tbody", {},
        ...places.map((place) => this.row(place, start, end))));
  }

  row(place, start, end) {
    const {
      accepted, codes, columns, marked, pins, rows, values,
    } = this.picture;
    const row = rows[place];
    const {rawNorms, rawUpdates} = this.picture;
    const cells = values === "norms" ? rawNorms : rawUpdates;
    const isLayer = row.isOpen !== null;
    const isPinned = !isLayer && pins.includes(row.keys[0]);
    const shown = [];
    for (let column = start; column < end; column++) {
      const cell = cells[place * columns.length + column];
      const kind = kindOf(cell);
      const text = cell === UNMEASURED ? "" : NAMES[kind] ?? textOf(cell, 3);
      shown.push(element("td", {class: kind}, text));
    }
    const name = button(row.label, () => this.choose(row), {
      class: "plain", "data-place": place,
      "aria-expanded": isLayer ? String(row.isOpen) : null,
      "aria-pressed": isLayer ? null : String(isPinned),
    });
    const told = [...codes[place], ...(accepted[place] ? ["accepted"] : [])];
    const badges = told.flatMap(
      (text) => [" ", element("span", {class: "badge code"}, text)]);
    const classes = [`level${row.level}`];
    if (marked.has(row.id)) classes.push("marked");
    return element("tr", {class: classes.join(" ")},
      element("th", {scope: "row"}, name, ...badges), ...shown);
  }
}
