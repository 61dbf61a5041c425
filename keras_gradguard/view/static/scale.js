/** Colours of cells: one fixed logarithmic scale for all runs. */

import {kindOf} from "./cells.js";

// Even steps of lightness that all kinds of colour blindness keep apart.
const ANCHORS = [
  [68, 1, 84], [72, 36, 117], [65, 68, 135], [53, 95, 141], [42, 120, 142],
  [33, 145, 140], [34, 168, 132], [68, 191, 112], [122, 209, 81],
  [189, 223, 38], [253, 231, 37],
];
const SIZE = 256;

/** Decades at the two ends of the scale. */
export const DECADES = {norms: [-8, 2], updates: [-8, 2]};

/** Colours that the scale does not hold, red, green, blue. */
export const COLOURS = {
  missing: [200, 16, 46], zero: [0, 0, 0], nan: [255, 64, 208],
  inf: [255, 127, 0],
};

function between(place) {
  const low = Math.min(Math.floor(place), ANCHORS.length - 2);
  const share = place - low;
  return ANCHORS[low].map(
    (value, i) => Math.round(value + share * (ANCHORS[low + 1][i] - value)));
}

const TABLE = Array.from(
  {length: SIZE}, (_, i) => between(i / (SIZE - 1) * (ANCHORS.length - 1)));

/** Returns red, green, blue of a cell, or null: it is left blank. */
export function colourOf(cell, [low, high]) {
  const kind = kindOf(cell);
  if (kind === "unmeasured") return null;
  if (kind !== "norm") return COLOURS[kind];
  const share = (Math.log10(cell) - low) / (high - low);
  const place = Math.round(share * (SIZE - 1));
  return TABLE[Math.max(0, Math.min(SIZE - 1, place))];
}

/** Paints cells, row by row, one pixel each. */
export function paint(canvas, cells, numRows, numColumns, decades) {
  canvas.width = Math.max(1, numColumns);
  canvas.height = Math.max(1, numRows);
  if (!cells.length) return;
  const context = canvas.getContext("2d");
  const image = context.createImageData(numColumns, numRows);
  const bytes = image.data;
  for (let i = 0, place = 0; i < cells.length; i++, place += 4) {
    const colour = colourOf(cells[i], decades);
    if (colour === null) continue;
    bytes[place] = colour[0];
    bytes[place + 1] = colour[1];
    bytes[place + 2] = colour[2];
    bytes[place + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Returns a colour as CSS has it. */
export function css(colour) {
  return `rgb(${colour.join(" ")})`;
}

/** Returns the scale as a CSS gradient, small norms left. */
export function gradient() {
  return `linear-gradient(to right, ${ANCHORS.map(css).join(", ")})`;
}
