/** The axis of steps below a heatmap. */

import {element} from "./element.js";

const APART = 90;

/** Step numbers at even distances; columns need not be even in steps. */
export class Axis {
  constructor() {
    this.root = element("div", {class: "axis", "aria-hidden": "true"});
  }

  /** Draws the axis for columns over so many pixels. */
  draw(columns, width) {
    const number = columns.length;
    const ticks = Math.max(1, Math.min(number, Math.floor(width / APART)));
    const marks = [];
    for (let tick = 0; tick < ticks && number; tick++) {
      const column = Math.round(tick * number / ticks);
      const left = 100 * column / number;
      marks.push(element("span", {style: `left: ${left}%`},
        String(columns[column][0])));
    }
    if (number > 1) {
      marks.push(element("span", {class: "end"}, String(columns.at(-1)[1])));
    }
    this.root.replaceChildren(...marks);
  }
}
