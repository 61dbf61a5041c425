/** The box beside the pointer that says what a cell is. */

import {UNMEASURED, stepsOf, textOf} from "./cells.js";
import {element} from "./element.js";

const AWAY = 14;

/** One box for the whole page. */
export class Tip {
  constructor() {
    this.lines = ["path", "steps", "norm", "update", "more"].map(
      (name) => element("div", {class: name}));
    this.root = element(
      "div", {class: "tip", role: "tooltip", hidden: true}, ...this.lines);
  }

  /** Shows a cell at a place of the window. */
  show(picture, place, column, x, y) {
    const row = picture.rows[place];
    const at = place * picture.columns.length + column;
    const update = picture.rawUpdates[at];
    const number = row.members.length;
    const texts = [
      row.layer ?? row.keys[0],
      stepsOf(picture.columns[column]),
      `gradient norm: ${textOf(picture.rawNorms[at])}`,
      `update / weight: ${update === UNMEASURED ? "not measured"
        : textOf(update)}`,
      number > 1 ? `the worst of ${number} variables; click to unfold` : "",
    ];
    this.lines.forEach((line, i) => { line.textContent = texts[i]; });
    this.root.hidden = false;
    const {offsetWidth, offsetHeight} = this.root;
    const isRight = x + AWAY + offsetWidth < window.innerWidth;
    const left = isRight ? x + AWAY : Math.max(0, x - AWAY - offsetWidth);
    const isBelow = y + AWAY + offsetHeight < window.innerHeight;
    const top = isBelow ? y + AWAY : Math.max(0, y - AWAY - offsetHeight);
    this.root.style.transform = `translate(${left}px, ${top}px)`;
  }

  /** Takes the box away. */
  hide() {
    this.root.hidden = true;
  }
}
