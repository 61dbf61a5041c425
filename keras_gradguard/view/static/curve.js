/** The curve of one pinned variable, a line for each run. */

import {NAMES, SIGNS, kindOf, stepsOf} from "./cells.js";
import {button, drawn, element} from "./element.js";

const HEIGHT = 110;
const LEFT = 44;
const BAND = 7;
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

/**
 * Returns the curve of a variable.
 *
 * @param {string} key The variable.
 * @param {Object[]} lines `run`, `columns` and `cells` of each run that has
 *     the variable.
 * @param {number} width Pixels.
 * @param {string} what What the numbers are.
 * @param {function()} unpin Takes the curve away.
 */
export function curve(key, lines, width, what, unpin) {
  const axes = axesOf(lines, width);
  const parts = lines.flatMap((line, i) => [
    drawn("path", {
      class: `line line${i % DASHES.length}`, d: pathOf(line, axes),
      "stroke-dasharray": DASHES[i % DASHES.length],
    }),
    ...bands(line, HEIGHT + 2 + i * (BAND + 1), axes),
  ]);
  const height = HEIGHT + 6 + lines.length * (BAND + 1) + 16;
  const picture = drawn("svg", {
    width, height, role: "img", "aria-label": summary(key, lines, what),
  }, ...grid(axes, height), ...parts);
  const names = lines.map((_, i) => element("span", {class: "key"},
    drawn("svg", {width: 24, height: 8, "aria-hidden": "true"}, drawn("path", {
      class: `line line${i % DASHES.length}`, d: "M0 4H24",
      "stroke-dasharray": DASHES[i % DASHES.length],
    })), told(lines[i])));
  return element("figure", {class: "curve", "data-key": key},
    element("figcaption", {}, element("b", {}, key), ` ${what} `, ...names,
      button("Unpin", unpin, {"aria-label": `Unpin ${key}`})),
    lines.length ? picture
      : element("p", {class: "note"}, "No run shown has this variable."));
}

function axesOf(lines, width) {
  const logs = [];
  let [first, last] = [Infinity, -Infinity];
  for (const {cells, columns} of lines) {
    for (const cell of cells) {
      if (kindOf(cell) === "norm") logs.push(Math.log10(cell));
    }
    if (!columns.length) continue;
    first = Math.min(first, columns[0][0]);
    last = Math.max(last, columns.at(-1)[1]);
  }
  const lowest = logs.reduce((a, b) => Math.min(a, b), Infinity);
  const highest = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  const low = logs.length ? Math.floor(lowest) : -8;
  const high = logs.length ? Math.max(low + 1, Math.ceil(highest)) : 2;
  const span = Math.max(1, last - first);
  const inner = width - LEFT - 12;
  return {
    first, last, low, high, width,
    x: (step) => LEFT + inner * (step - first) / span,
    y: (log) => 4 + (HEIGHT - 8) * (high - log) / (high - low),
  };
}

function pathOf({cells, columns}, {x, y}) {
  let path = "";
  let isOn = false;
  cells.forEach((cell, i) => {
    const kind = kindOf(cell);
    if (kind === "unmeasured") return;
    if (kind !== "norm") {
      isOn = false;
      return;
    }
    const place = `${x(columns[i][1]).toFixed(1)} ` +
      y(Math.log10(cell)).toFixed(1);
    // A line of no length shows a point that has no neighbour.
    path += isOn ? `L${place}` : `M${place}h0.1`;
    isOn = true;
  });
  return path;
}

/** Says below the curve where it is no number. */
function bands({cells, columns}, top, {x}) {
  const found = [];
  for (let start = 0; start < cells.length;) {
    const kind = kindOf(cells[start]);
    let end = start + 1;
    while (end < cells.length && kindOf(cells[end]) === kind) end += 1;
    if (SIGNS.includes(kind)) {
      const left = x(columns[start][0]);
      const right = x(columns[end - 1][1]);
      const steps = stepsOf([columns[start][0], columns[end - 1][1], 0]);
      found.push(drawn("rect", {
        class: `band-${kind}`, x: left - 1, y: top, height: BAND,
        width: Math.max(3, right - left + 2),
      }, drawn("title", {}, `${NAMES[kind]}, ${steps}`)));
    }
    start = end;
  }
  return found;
}

function grid({first, high, last, low, width, x, y}, height) {
  const parts = [];
  const every = Math.ceil((high - low) / 4);
  for (let decade = low; decade <= high; decade += every) {
    parts.push(
      drawn("path", {class: "rule", d: `M${LEFT} ${y(decade)}H${width - 8}`}),
      drawn("text", {x: LEFT - 5, y: y(decade) + 4, "text-anchor": "end"},
        `1e${decade}`));
  }
  if (first > last) return parts;
  for (const share of [0, 0.5, 1]) {
    const step = Math.round(first + share * (last - first));
    parts.push(drawn("text", {
      x: x(step), y: height - 4,
      "text-anchor": ["start", "middle", "end"][2 * share],
    }, String(step)));
  }
  return parts;
}

function summary(key, lines, what) {
  return `${what} of ${key}; ${lines.map(told).join("; ")}`;
}

/** Returns the name of a run, and how often it has no number. */
function told({cells, run}) {
  const counts = SIGNS.flatMap((sign) => {
    const number = cells.filter((cell) => kindOf(cell) === sign).length;
    return number ? [`${NAMES[sign]} in ${number}`] : [];
  });
  return counts.length
    ? `${run}: ${counts.join(", ")} of ${cells.length} columns` : run;
}
