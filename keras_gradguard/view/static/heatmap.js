/** The heatmap of a run: rows x steps, one pixel of a canvas a cell. */

import {Axis} from "./axis.js";
import {NAMES, stepsOf} from "./cells.js";
import {element, setAttribute} from "./element.js";
import {Keys} from "./keys.js";
import {LINE, Labels} from "./labels.js";
import {DECADES, paint} from "./scale.js";

const DRAG = 5;

/**
 * @typedef {Object} Picture What is drawn.
 * @property {Object[]} rows See `rows.js`.
 * @property {number[][]} columns First step, last step, number of records.
 * @property {Float32Array} rawNorms Cells, rows x columns.
 * @property {Float32Array} rawUpdates The same of the updates.
 * @property {string} values Which of both is drawn.
 * @property {Set<string>} marked Ids of rows that the open card names.
 * @property {string[]} pins Keys of pinned variables.
 * @property {(string|null)[]} signs What to mark each row with.
 * @property {boolean[]} accepted Whether that is no break.
 * @property {boolean} isWhole Whether all rows are to fit in `height` pixels.
 * @property {string[][]} codes Codes of the diagnoses that name each row.
 */

/** Draws, and tells what the user does. */
export class Heatmap {
  /**
   * @param {string} name Name of the run.
   * @param {Tip} tip The box beside the pointer.
   * @param {Object} actions `choose(row)`, `zoom(first, last)`, `zoomBy(key)`.
   */
  constructor(name, tip, actions) {
    this.name = name;
    this.tip = tip;
    this.actions = actions;
    this.cursor = {row: 0, column: 0};
    this.canvas = element("canvas", {class: "map", role: "img"});
    this.band = element("div", {class: "band", hidden: true});
    this.cross = element("div", {class: "cross", hidden: true});
    this.marks = element("div", {class: "marks", "aria-hidden": "true"});
    this.row = LINE;
    this.labels = new Labels(`Rows of ${name}: arrows move, Enter selects`);
    this.axis = new Axis();
    const area = element(
      "div", {class: "area"}, this.canvas, this.band, this.cross);
    this.sheet = element(
      "div", {class: "sheet"}, area, this.marks, this.labels.root);
    this.scroller = element("div", {class: "scroller"}, this.sheet);
    this.root = element(
      "div", {class: "heatmap"}, this.scroller, this.axis.root);
    this.scroller.addEventListener("scroll", () => this.drawLabels());
    this.listen();
    this.keys = new Keys(this);
  }

  /** Draws a picture anew. */
  draw(picture) {
    const known = this.picture?.rows[this.cursor.row]?.id;
    this.picture = picture;
    const {columns, rows, values} = picture;
    const cells = values === "norms" ? picture.rawNorms : picture.rawUpdates;
    const place = rows.findIndex((row) => row.id === known);
    this.cursor.row = place >= 0
      ? place : Math.max(0, Math.min(this.cursor.row, rows.length - 1));
    this.cursor.column = Math.max(
      0, Math.min(this.cursor.column, columns.length - 1));
    paint(this.canvas, cells, rows.length, columns.length, DECADES[values]);
    this.leave();
    this.row = picture.isWhole
      ? Math.min(LINE, picture.height / rows.length) : LINE;
    this.sheet.style.height = `${rows.length * this.row}px`;
    this.drawMarks();
    setAttribute(this.canvas, "data-columns", columns.length);
    setAttribute(this.canvas, "data-rows", rows.length);
    setAttribute(this.canvas, "aria-label", this.summary());
    this.axis.draw(columns, this.canvas.clientWidth);
    this.drawLabels();
  }

  /** Returns what the heatmap shows, in words. */
  summary() {
    const {columns, rows, signs, values} = this.picture;
    const what = values === "norms"
      ? "Gradient norms" : "Ratios of update to weight";
    const counts = ["nan", "inf", "missing", "zero"].flatMap((kind) => {
      const number = signs.filter((sign) => sign === kind).length;
      return number ? [`${number} ${NAMES[kind]}`] : [];
    });
    const steps = columns.length
      ? stepsOf([columns[0][0], columns.at(-1)[1], 0]) : "no step";
    const told = counts.length ? `; rows with: ${counts.join(", ")}` : "";
    return `${what} of ${this.name}, ${rows.length} rows, ${steps}${told}`;
  }

  drawLabels() {
    const {scrollTop, clientHeight} = this.scroller;
    const view = {top: scrollTop, height: clientHeight, row: this.row};
    this.labels.draw(this.picture, view, this.cursor);
  }

  /** Marks the rows that the open card names, neighbours by one mark. */
  drawMarks() {
    const {marked, rows} = this.picture;
    const marks = [];
    rows.forEach(({id}, place) => {
      if (!marked.has(id)) return;
      if (marks.at(-1)?.end === place) marks.at(-1).end += 1;
      else marks.push({start: place, end: place + 1});
    });
    this.marks.replaceChildren(...marks.map(({end, start}) => element("div", {
      style: `top: ${start * this.row}px; ` +
        `height: ${(end - start) * this.row}px`,
    })));
  }

  /** Scrolls to a row if it is out of view. */
  reveal(place) {
    const {scrollTop, clientHeight} = this.scroller;
    const top = place * this.row;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + this.row > scrollTop + clientHeight) {
      this.scroller.scrollTop = top + this.row - clientHeight;
    }
  }

  /** Shows which cell is meant. */
  point(place, column) {
    const number = this.picture.columns.length;
    this.cross.hidden = false;
    this.cross.style.top = `${place * this.row}px`;
    this.cross.style.height = `${this.row}px`;
    this.cross.style.left = `${100 * column / number}%`;
    this.cross.style.width = `max(2px, ${100 / number}%)`;
  }

  /** Returns the cell at a place of the window, or null. */
  cellAt(x, y) {
    const box = this.canvas.getBoundingClientRect();
    const {columns, rows} = this.picture;
    const place = Math.floor((y - box.top) / this.row);
    if (place < 0 || place >= rows.length || !columns.length) return null;
    const share = (x - box.left) / box.width;
    const column = Math.floor(share * columns.length);
    const inside = Math.max(0, Math.min(columns.length - 1, column));
    return {place, column: inside, isLabel: share < 0};
  }

  listen() {
    const {sheet} = this;
    let start = null;
    sheet.addEventListener("pointermove", (event) => {
      const cell = this.cellAt(event.clientX, event.clientY);
      if (cell === null) return;
      if (start) this.drawBand(start.column, cell.column);
      if (cell.isLabel) return this.leave();
      this.point(cell.place, cell.column);
      this.tip.show(
        this.picture, cell.place, cell.column, event.clientX, event.clientY);
    });
    sheet.addEventListener("pointerleave", () => this.leave());
    sheet.addEventListener("pointerdown", (event) => {
      const cell = this.cellAt(event.clientX, event.clientY);
      if (event.button !== 0 || cell === null) return;
      start = {...cell, x: event.clientX};
      sheet.setPointerCapture(event.pointerId);
      event.preventDefault();
      this.labels.root.focus({preventScroll: true});
    });
    sheet.addEventListener("pointerup", (event) => {
      const [from, to] = [start, this.cellAt(event.clientX, event.clientY)];
      start = null;
      this.band.hidden = true;
      if (from === null || to === null) return;
      const isDrag = Math.abs(event.clientX - from.x) > DRAG;
      if (isDrag && !from.isLabel) return this.zoom(from.column, to.column);
      this.cursor = {row: to.place, column: to.column};
      this.actions.choose(this.picture.rows[to.place]);
    });
    sheet.addEventListener("pointercancel", () => {
      start = null;
      this.band.hidden = true;
    });
  }

  leave() {
    this.tip.hide();
    this.cross.hidden = true;
  }

  drawBand(one, other) {
    const number = this.picture.columns.length;
    const [low, high] = [Math.min(one, other), Math.max(one, other)];
    this.band.hidden = low === high;
    this.band.style.left = `${100 * low / number}%`;
    this.band.style.width = `${100 * (high - low + 1) / number}%`;
  }

  zoom(one, other) {
    const {columns} = this.picture;
    const [low, high] = [Math.min(one, other), Math.max(one, other)];
    this.actions.zoom(columns[low][0], columns[high][1]);
  }
}
