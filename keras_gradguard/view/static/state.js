/** What the user has chosen to see. */

import {read, write} from "./address.js";

const DEFAULTS = {
  runs: null, // names, or null: the first few
  filter: "", // words, or a regular expression between slashes
  rows: null, // "layers", "variables", or null: by their number
  toggled: [], // layers that are folded other than `rows` says
  height: "line", // of a row; or "all": all rows are in view
  shape: "heatmap", // or "table"
  values: "norms", // or "updates"
  first: null, // step, or null: from the start
  last: null,
  pins: [], // keys of variables
  card: null, // the open card, "" for none, or null: the newest
};
const MANY = 30;

const isText = (value) => typeof value === "string";
const isNames = (value) => Array.isArray(value) && value.every(isText);
const isStep = (value) => Number.isSafeInteger(value) && value >= 0;
const oneOf = (...known) => (value) => known.includes(value);
const FITS = {
  runs: isNames,
  filter: isText,
  rows: oneOf("layers", "variables"),
  toggled: isNames,
  height: oneOf("line", "all"),
  shape: oneOf("heatmap", "table"),
  values: oneOf("norms", "updates"),
  first: isStep,
  last: isStep,
  pins: isNames,
  card: isText,
};

/** Returns what the address says, without what somebody typed wrongly. */
function readSound() {
  const known = read(DEFAULTS);
  for (const [name, fits] of Object.entries(FITS)) {
    if (!fits(known[name])) known[name] = DEFAULTS[name];
  }
  return known;
}

/** The choices; whoever listens is told of each change. */
export class State {
  constructor() {
    Object.assign(this, readSound());
    this.listeners = [];
  }

  /** Changes some values, and tells all listeners their names. */
  set(changes) {
    Object.assign(this, changes);
    const names = Object.keys(DEFAULTS);
    write(Object.fromEntries(names.map((n) => [n, this[n]])), DEFAULTS);
    for (const listener of this.listeners) listener(changes);
  }

  /** Takes over what the address says now, another link for example. */
  reread() {
    const known = readSound();
    const changed = Object.entries(known).filter(
      ([name, value]) => JSON.stringify(value) !== JSON.stringify(this[name]));
    if (changed.length) this.set(Object.fromEntries(changed));
  }

  /** Adds what is not in a list, and takes away what is. */
  toggle(name, item) {
    const known = this[name];
    const without = known.filter((one) => one !== item);
    const isIn = without.length < known.length;
    this.set({[name]: isIn ? without : [...known, item]});
  }

  /** Whether the variables of a layer are shown, of so many in all. */
  isOpen(layer, numVariables) {
    const isAll = this.rows === null
      ? numVariables <= MANY : this.rows === "variables";
    return isAll !== this.toggled.includes(layer);
  }
}
