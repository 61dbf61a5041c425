/** One run: its name, and its heatmap or table. */

import {alert, element} from "./element.js";
import {Heatmap} from "./heatmap.js";
import {cellsOf, isNamed, rowsOf, signOf} from "./rows.js";
import {Grid} from "./table.js";
import {verdictBadge, verdictFacts} from "./verdict.js";

/** Shows the table of a run as the state wants it. */
export class Panel {
  /**
   * @param {string} run Name of the run.
   * @param {State} state What the user has chosen.
   * @param {Filter} filter Which variables are shown.
   * @param {Tip} tip The box beside the pointer.
   * @param {Object} actions See `Heatmap`; `open(card)` opens a card.
   */
  constructor(run, state, filter, tip, actions) {
    this.run = run;
    this.state = state;
    this.filter = filter;
    this.actions = actions;
    this.table = null;
    this.details = null;
    this.height = 0; // pixels that its rows may take
    this.heatmap = new Heatmap(run, tip, {
      ...actions, choose: (row) => this.choose(row),
    });
    this.grid = new Grid(run, (row) => this.choose(row));
    this.told = element("span", {class: "told"}, "reading …");
    this.verdict = element("span");
    this.facts = element("div");
    this.faults = element("div");
    this.body = element("div", {class: "body"});
    this.root = element("section", {class: "run", "aria-label": `Run ${run}`},
      element("h2", {}, element("span", {class: "run-name"}, run),
        this.verdict, this.told),
      this.facts, this.faults, this.body);
  }

  /** Says what went wrong; the run stays as it was. */
  fail(texts) {
    this.faults.replaceChildren(...texts.map(alert));
    if (texts.length && this.table === null) this.told.textContent = "";
  }

  /** Says what the verdict is, and why; nothing where none was written. */
  tell({verdict}) {
    const parts = verdict === null
      ? [[], []] : [[verdictBadge(verdict.title)], [verdictFacts(verdict)]];
    this.verdict.replaceChildren(...parts[0]);
    this.facts.replaceChildren(...parts[1].filter((part) => part !== null));
  }

  /** Pixels that it needs beside its rows, more or less of them by run. */
  get around() {
    return this.facts.offsetHeight;
  }

  /** Draws its rows on so many pixels. */
  giveRoom(height) {
    this.root.style.setProperty("--height", `${height}px`);
    this.height = height - 2; // its border
    this.draw();
  }

  /** Takes new data in. */
  update(table, details) {
    const isFirst = this.table === null;
    if (table) this.table = table;
    if (details) this.details = details;
    this.draw(isFirst);
  }

  /** The diagnoses of the run, as far as they are known. */
  get diagnoses() {
    return this.details?.diagnoses ?? [];
  }

  /**
   * Draws the run; `reveal` scrolls to the first row of the open card that
   * has a sign, or else to the first of them.
   */
  draw(reveal = false) {
    if (this.table === null) return;
    const {columns, numRecords, variables} = this.table;
    const counted = (number, name) =>
      `${number} ${name}${number === 1 ? "" : "s"}`;
    this.told.textContent = [
      counted(variables.length, "variable"), counted(numRecords, "record"),
      ...(this.details?.diagnoses.length === 0 ? ["no diagnosis"] : []),
    ].join(", ");
    if (!columns.length) {
      this.body.replaceChildren(element("p", {class: "note"}, variables.length
        ? "No record between these steps."
        : "No step was recorded." +
          (this.diagnoses.length ? " The diagnosis says why." : "")));
      return;
    }
    const picture = this.picture();
    if (!picture.rows.length) {
      this.body.replaceChildren(element(
        "p", {class: "note"}, "No variable path matches the filter. Type "
          + "words that the path contains, or a regular expression between "
          + "slashes, such as /kernel|bias/."));
      return;
    }
    const {root} = this.state.shape === "table" ? this.grid : this.heatmap;
    if (this.body.firstChild !== root) this.body.replaceChildren(root);
    if (this.state.shape === "table") this.grid.draw(picture);
    else this.heatmap.draw(picture);
    if (reveal) this.reveal(picture);
  }

  picture() {
    const {columns, norms, updates, variables} = this.table;
    const {pins, values} = this.state;
    const rows = rowsOf(variables, this.state, this.filter.finds);
    const rawNorms = cellsOf(rows, norms, columns.length);
    const rawUpdates = cellsOf(rows, updates, columns.length);
    const [cells, single] = values === "norms"
      ? [rawNorms, norms] : [rawUpdates, updates];
    const signIn = (table, place) => signOf(table.subarray(
      place * columns.length, (place + 1) * columns.length));
    const signs = rows.map((_, place) => signIn(cells, place));
    const accepted = rows.map(({members}, place) => signs[place] !== null &&
      members.every((number) => this.isAccepted(
        variables[number].key, signIn(single, number))));
    const open = this.openNames();
    return {
      rows, columns, rawNorms, rawUpdates, values, pins,
      height: this.height, isWhole: this.state.height === "all",
      signs, accepted, codes: this.codes(rows, signs),
      marked: new Set(
        rows.filter((row) => isNamed(row, open)).map(({id}) => id)),
    };
  }

  /** Whether a variable has no sign, or one that the verdict accepts. */
  isAccepted(key, sign) {
    if (sign === null) return true;
    const status = sign === "nan" || sign === "inf" ? "nonfinite" : sign;
    return Boolean(this.accepted[status]?.includes(key));
  }

  /** Keys of the rows that are no break, by their status. */
  get accepted() {
    return this.details?.verdict?.accepted ?? {};
  }

  /** A cut may hit all rows: its code is where it shows, if it does. */
  codes(rows, signs) {
    const found = rows.map(() => new Set());
    for (const {code, variables} of this.diagnoses) {
      const names = new Set(variables);
      const places = rows.map((_, place) => place)
        .filter((place) => isNamed(rows[place], names));
      const signed = places.filter((place) => signs[place] !== null);
      for (const place of signed.length ? signed : places) {
        found[place].add(code);
      }
    }
    return found.map((codes) => [...codes]);
  }

  openNames() {
    const {card} = this.state;
    const number = this.diagnoses.findIndex(
      (_, i) => card === `${this.run}#${i}`);
    return new Set(number < 0 ? [] : this.diagnoses[number].variables);
  }

  reveal({marked, rows, signs}) {
    const isMarked = ({id}) => marked.has(id);
    const signed = rows.findIndex(
      (row, place) => isMarked(row) && signs[place] !== null);
    const first = signed < 0 ? rows.findIndex(isMarked) : signed;
    if (first < 0) return;
    this.root.scrollIntoView({block: "nearest"});
    if (this.state.shape === "table") this.grid.reveal(first);
    else this.heatmap.reveal(first);
  }

  /** Unfolds a layer; pins a variable and opens the card that names it. */
  choose(row) {
    if (row.isOpen !== null) {
      this.state.toggle("toggled", row.layer);
      return;
    }
    const named = this.diagnoses.findLastIndex(
      ({variables}) => isNamed(row, new Set(variables)));
    const [key] = row.keys;
    const isPinned = this.state.pins.includes(key);
    this.state.toggle("pins", key);
    if (named >= 0 && !isPinned) this.actions.open(`${this.run}#${named}`);
  }
}
