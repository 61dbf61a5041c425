/** The rows of a run: layers that fold and variables, in model order. */

import {kindOf, SIGNS, UNMEASURED, worse} from "./cells.js";

/**
 * Returns the rows to show.
 *
 * @param {Object[]} variables As the server tells them.
 * @param {State} state Says which layers are open.
 * @param {function(string): boolean} finds Whether a key is shown.
 * @return {Object[]} `id`, `label`, `level`, `isOpen` (null for a variable),
 *     `members` (numbers of the variables), `keys` of them and `paths`.
 */
export function rowsOf(variables, state, finds) {
  const rows = [];
  for (const [layer, members] of layersOf(variables, finds)) {
    // A layer with one variable is that variable.
    if (layer === "" || members.length === 1) {
      rows.push(...members.map((number) => variableRow(variables, number)));
      continue;
    }
    const isOpen = state.isOpen(layer, variables.length);
    rows.push(rowOf(variables, members, {
      id: `layer ${layer}`, label: layer, layer, level: 1, isOpen,
    }));
    if (!isOpen) continue;
    for (const number of members) {
      const label = variables[number].key.slice(commonLength(layer));
      rows.push({...variableRow(variables, number), label, level: 2});
    }
  }
  return rows;
}

function commonLength(layer) {
  return layer.replace(/#\d+$/, "").length + 1;
}

function layersOf(variables, finds) {
  const layers = [];
  variables.forEach(({key, layer}, number) => {
    if (!finds(key)) return;
    const last = layers.at(-1);
    if (last && last[0] === layer) last[1].push(number);
    else layers.push([layer, [number]]);
  });
  return layers;
}

function variableRow(variables, number) {
  const {key} = variables[number];
  return rowOf(variables, [number], {
    id: `variable ${key}`, label: key, layer: null, level: 1, isOpen: null,
  });
}

function rowOf(variables, members, known) {
  const keys = members.map((number) => variables[number].key);
  const paths = members.map((number) => variables[number].path);
  return {...known, members, keys, paths};
}

/** Returns the cells of rows, of each the worst of its variables. */
export function cellsOf(rows, cells, numColumns) {
  const found = new Float32Array(rows.length * numColumns);
  rows.forEach(({members}, place) => {
    const target = found.subarray(place * numColumns, (place + 1) * numColumns);
    const [first, ...others] = members.map((number) => cells.subarray(
      number * numColumns, (number + 1) * numColumns));
    target.set(first);
    for (const other of others) {
      for (let i = 0; i < numColumns; i++) {
        target[i] = worse(target[i], other[i]);
      }
    }
  });
  return found;
}

/** Returns the kind that a row is to be marked with, or null. */
export function signOf(cells) {
  const found = new Set();
  let last = UNMEASURED;
  for (const cell of cells) {
    if (cell === UNMEASURED) continue;
    last = cell;
    if (!(cell > 0 && cell < Infinity)) found.add(kindOf(cell));
  }
  // One zero is nothing to tell of; that it is zero now may be.
  if (last !== 0) found.delete("zero");
  return SIGNS.find((kind) => found.has(kind)) ?? null;
}

/** Whether a diagnosis names a variable of a row. */
export function isNamed(row, names) {
  return row.paths.some((path) => names.has(path)) ||
    row.keys.some((key) => names.has(key));
}
