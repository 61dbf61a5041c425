/** The labels of a heatmap's rows: only those in view are in the page. */

import {NAMES, UNMEASURED, stepsOf, textOf} from "./cells.js";
import {element, setAttribute} from "./element.js";

/** Pixels of a row, where each has its own line. */
export const LINE = 16;
const BEYOND = 4;
let count = 0;

/** A tree grid whose rows are the heatmap's and whose columns are steps. */
export class Labels {
  constructor(name) {
    this.name = `grid${count++}`;
    this.root = element("div", {
      class: "labels", role: "treegrid", tabindex: 0, "aria-label": name,
    });
    this.range = "";
  }

  /** Returns the id of a row's element. */
  idOf(place) {
    return `${this.name}-${place}`;
  }

  topOf(place, {rows}) {
    const last = Math.max(0, rows.length * this.height - LINE);
    return Math.min(place * this.height, last);
  }

  /**
   * Draws the labels in view, as many as have room.
   *
   * @param {Object} picture What the heatmap shows.
   * @param {Object} view `top` and `height`, pixels in view, and `row`, those
   *     of a row.
   * @param {Object} cursor `row` and `column` of the keyboard.
   */
  draw(picture, {height, row, top}, cursor) {
    this.height = row;
    const first = Math.max(0, Math.floor(top / row) - BEYOND);
    const end = Math.ceil((top + height) / row) + BEYOND;
    const places = withRoom(picture, first, end, cursor.row, row);
    this.root.replaceChildren(
      ...places.map((place) => this.row(picture, place, cursor)));
    setAttribute(this.root, "aria-rowcount", picture.rows.length);
    setAttribute(this.root, "aria-colcount", picture.columns.length + 1);
    setAttribute(this.root, "aria-activedescendant",
      picture.rows.length ? this.idOf(cursor.row) : null);
  }

  row(picture, place, cursor) {
    const row = picture.rows[place];
    const isLayer = row.isOpen !== null;
    const classes = ["row", `level${row.level}`];
    if (row.keys.some((key) => picture.pins.includes(key)) && !isLayer) {
      classes.push("pinned");
    }
    if (place === cursor.row) classes.push("current");
    const sign = picture.signs[place];
    const isAccepted = picture.accepted[place];
    const badge = sign && element(
      "span", {class: `badge ${isAccepted ? "accepted" : sign}`},
      isAccepted ? `${NAMES[sign]}, accepted` : NAMES[sign]);
    const codes = picture.codes[place].flatMap(
      (code) => [" ", element("span", {class: "badge code"}, code)]);
    const fold = element("span", {class: "fold", "aria-hidden": "true"},
      isLayer ? (row.isOpen ? "▾" : "▸") : "");
    // Where the layer's label may have no room, the whole path is told.
    const text = this.height < LINE ? row.layer ?? row.keys[0] : row.label;
    const name = element("span", {class: "name"}, element("bdi", {}, text));
    return element("div", {
      class: classes.join(" "), id: this.idOf(place), role: "row",
      style: `top: ${this.topOf(place, picture)}px`, "data-place": place,
      "aria-rowindex": place + 1, "aria-level": row.level,
      "aria-expanded": isLayer ? String(row.isOpen) : null,
      "aria-selected": String(place === cursor.row),
    },
    element("span", {role: "rowheader", class: "head"},
      fold, name, ...codes, " ", badge),
    element("span", {
      role: "gridcell", class: "unseen", "aria-colindex": cursor.column + 2,
    }, told(picture, place, cursor.column)));
  }
}

/**
 * Returns the rows that get a label: the keyboard's wherever it is, then those
 * with a sign, then layers, then what has room.
 */
function withRoom({rows, signs}, first, end, current, height) {
  const every = Math.ceil(LINE / height);
  const taken = new Set();
  const take = (place) => {
    for (let near = place - every + 1; near < place + every; near++) {
      if (taken.has(near)) return;
    }
    taken.add(place);
  };
  if (current < rows.length) take(current);
  for (const isWanted of [
    (place) => signs[place] !== null, (place) => rows[place].level === 1,
    () => true,
  ]) {
    for (let place = first; place < Math.min(end, rows.length); place++) {
      if (isWanted(place)) take(place);
    }
  }
  return [...taken].sort((one, other) => one - other);
}

/** Returns what a cell says, in words. */
export function told(picture, place, column) {
  const {columns, rows, rawUpdates} = picture;
  if (!columns.length) return "no record";
  const at = place * columns.length + column;
  const parts = [
    `${stepsOf(columns[column])}: norm ${textOf(picture.rawNorms[at], 3)}`];
  if (rawUpdates[at] !== UNMEASURED) {
    parts.push(`update ratio ${textOf(rawUpdates[at], 3)}`);
  }
  const number = rows[place].members.length;
  if (number > 1) parts.push(`the worst of ${number} variables`);
  return parts.join(", ");
}
