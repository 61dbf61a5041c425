/** The page: asks for what is chosen, and hands it to its parts. */

import {followAddress} from "./address.js";
import * as api from "./api.js";
import {newestFirst} from "./cards.js";
import {Details} from "./details.js";
import {alert, element} from "./element.js";
import {empty} from "./empty.js";
import {Filter} from "./filter.js";
import {legend, ways} from "./legend.js";
import {Options} from "./options.js";
import {Panel} from "./panel.js";
import {Pins} from "./pins.js";
import {Runs, chosen} from "./runs.js";
import {State} from "./state.js";
import {Tip} from "./tip.js";
import {Zoom} from "./zoom.js";

const WIDTH = 4000;
// Pixels around the cells and beside them their labels, as page.css has them.
const BORDERS = 26;
const LABELS = {share: 0.34, least: 160, most: 340};
// So much wider it must be, to ask for more columns.
const WIDER = 1.2;
// Pixels of a heatmap that scrolls, and of what stands around it.
const LEAST = 140;
const AROUND = 56;
// Milliseconds until the next look where there is no run.
const AGAIN = 3000;

/** All of the tab. */
export class Page {
  constructor() {
    const state = new State();
    this.state = state;
    this.tip = new Tip();
    this.filter = new Filter(() => this.draw());
    this.runs = new Runs(state);
    this.options = new Options(state);
    this.zoom = new Zoom(state);
    this.pins = new Pins(state);
    this.details = new Details(state, (id) => this.open(id));
    this.key = element("div");
    this.faults = element("div");
    this.list = element("div", {class: "list"});
    this.main = element("main", {}, this.zoom.root, this.faults, this.list,
      this.pins.root);
    this.shown = [];
    this.panels = new Map();
    this.known = new Map(); // by run: table, details
    this.asked = 0; // how often
    this.answered = 0; // the last of them that is done
    this.columns = 0; // as many as were asked for
    const side = element("div", {
      class: "side", role: "region", "aria-label": "Choices",
    }, element("h1", {class: "unseen"}, "Gradients"),
    this.options.root, this.runs.root, this.key, ways());
    this.root = element("div", {class: "page"}, side, this.main,
      this.details.root, this.tip.root);
    state.listeners.push((changes) => this.follow(changes));
    followAddress(() => state.reread());
    new ResizeObserver(() => this.resize()).observe(this.list);
  }

  /** Asks for everything anew; what is on the page stays until it comes. */
  async load() {
    try {
      this.all = await api.runs();
      this.faults.replaceChildren();
    } catch (error) {
      this.fail(error.message);
      return;
    }
    await this.ask();
    // TensorBoard reads its folder while it serves already.
    clearTimeout(this.again); // a reload has come before it
    if (!this.all.length) this.again = setTimeout(() => this.load(), AGAIN);
  }

  /**
   * Asks for the chosen runs.
   *
   * @param {?number} columns The most columns that are wanted, or null: as
   *     many as there is room for.
   */
  async ask(columns = null) {
    this.asked += 1;
    const turn = this.asked;
    this.root.setAttribute("aria-busy", "true");
    const names = chosen(this.all, this.state);
    this.runs.update(this.all);
    // Healthy runs need the room for their heatmaps.
    this.details.root.hidden = !this.all.some((known) =>
      names.includes(known.run) && (known.num_diagnoses ||
        known.num_incidents || known.num_losses > 1));
    this.columns = columns ?? this.numColumns();
    this.show(names);
    try {
      await Promise.all(names.map((run) => this.askRun(run, turn)));
    } finally {
      this.answered = Math.max(this.answered, turn);
    }
    if (this.answered === this.asked) this.root.removeAttribute("aria-busy");
    this.askIfWider();
  }

  /**
   * Asks again where there is room for more columns. To ask draws, and to draw
   * leads here: so never while asking, and only for more than was asked for.
   */
  askIfWider() {
    if (this.answered < this.asked) return; // `ask` looks when it is done
    const columns = this.numColumns();
    if (columns > WIDER * this.columns) this.ask(columns);
  }

  async askRun(run, turn) {
    const {first, last} = this.state;
    const listed = this.all.find((known) => known.run === run);
    const faults = new Set(listed.error === null ? [] : [listed.error]);
    const part = async (route, get) => {
      if (!listed.readable.includes(route)) return null;
      try {
        return await get();
      } catch (fault) {
        faults.add(fault.message);
        // The list is made without all of a run being read.
        if (fault.isAnswer) listed.error ??= fault.message;
        return null;
      }
    };
    const [table, details] = await Promise.all([
      part("norms", () => api.table(run, this.columns, first, last)),
      part("details", () => api.details(run)),
    ]);
    if (turn !== this.asked) return; // the user has chosen anew
    const known = {...this.known.get(run)};
    if (table) known.table = table;
    if (details) known.details = details;
    this.known.set(run, known);
    this.runs.update(this.all);
    const panel = this.panels.get(run);
    panel?.fail([...faults]);
    if (details) panel?.tell(details);
    this.openNewest(run, known);
    this.takeFilter();
    // What is around decides how many rows have room.
    this.drawAround();
    this.resize();
    panel?.update(known.table, known.details);
    performance.mark("gradguard-drawn");
  }

  /** A column must not be narrower than a pixel. */
  numColumns() {
    const canvas = this.list.querySelector("canvas");
    const width = canvas?.clientWidth ||
      widthBesideLabels(this.main.clientWidth - BORDERS);
    return Math.max(50, Math.min(WIDTH, Math.floor(width)));
  }

  /** Opens the newest card of the first run that has any. */
  openNewest(run, {details}) {
    if (this.state.card !== null || !details?.diagnoses.length) return;
    const first = this.all.find((known) => known.num_diagnoses &&
      this.shown.includes(known.run));
    if (first?.run !== run) return;
    const [{id}] = newestFirst(run, details.diagnoses);
    this.state.card = id;
  }

  /** Makes the panels of the shown runs, and keeps those that are there. */
  show(names) {
    this.shown = names;
    for (const run of names) {
      if (this.panels.has(run)) continue;
      this.panels.set(run, new Panel(run, this.state, this.filter, this.tip, {
        open: (id) => this.open(id, true),
        zoom: (first, last) => this.zoom.to(first, last),
        zoomBy: (key, about) => this.zoom.by(key, about),
      }));
    }
    this.size = null; // a new panel has no height yet
    const roots = names.map((run) => this.panels.get(run).root);
    const isSame = roots.length === this.list.children.length &&
      roots.every((root, i) => this.list.children[i] === root);
    this.root.classList.toggle("is-empty", !this.all.length);
    if (!this.all.length) this.list.replaceChildren(empty());
    else if (!names.length) {
      this.list.replaceChildren(
        element("p", {class: "note"}, "Choose a run on the left."));
    } else if (!isSame) this.list.replaceChildren(...roots);
    this.resize();
  }

  /** Says what went wrong, above all runs. */
  fail(text) {
    this.faults.replaceChildren(alert(text));
  }

  drawAround() {
    const shown = this.shown.map((run) => ({run, ...this.known.get(run)}));
    this.details.update(shown.map(
      ({details = null, run}) => ({run, details})));
    this.pins.update(shown);
    const steps = shown.flatMap(({table}) => table && table.lastStep !== null
      ? [table.firstStep, table.lastStep] : []);
    this.zoom.update(
      steps.length ? [Math.min(...steps), Math.max(...steps)] : null);
    const counts = shown.map(({table}) => table?.variables.length ?? 0);
    this.options.update(Math.max(0, ...counts), this.filter.fault);
    this.key.replaceChildren(legend(this.state.values));
  }

  /** Opens a card, or closes it; `isAsked` brings it into view. */
  open(id, isAsked = false) {
    const isOpen = this.state.card === id;
    this.state.set({card: isOpen && !isAsked ? "" : id});
    if (isAsked) this.details.reveal(id);
  }

  follow(changes) {
    if (!this.all) return; // still reading; what is chosen by then is shown
    const wants = ["runs", "first", "last"].some((name) => name in changes);
    if (wants) {
      this.ask();
      return;
    }
    this.draw("card" in changes);
  }

  /** Draws all anew; `reveal` scrolls to what the open card names. */
  draw(reveal = false) {
    this.takeFilter();
    for (const run of this.shown) this.panels.get(run).draw(reveal);
    this.drawAround();
  }

  /** Tells the filter what is looked for among which variables. */
  takeFilter() {
    const tables = this.shown.map((run) => this.known.get(run)?.table);
    this.filter.update(this.state.filter, tables.flatMap(
      (table) => table?.variables.map(({key}) => key) ?? []));
  }

  resize() {
    const {clientHeight, clientWidth} = this.list;
    const number = Math.max(1, this.shown.length);
    const arounds = this.shown.map((run) => this.panels.get(run).around);
    const size = [clientHeight, clientWidth, ...arounds].join();
    if (size === this.size) return;
    this.size = size;
    for (const panel of this.panels.values()) {
      const height = clientHeight / number - AROUND - panel.around;
      panel.giveRoom(Math.max(LEAST, Math.floor(height)));
    }
    if (!this.all) return;
    this.pins.update(
      this.shown.map((run) => ({run, ...this.known.get(run)})));
    this.askIfWider();
  }
}

/** Returns what the cells will get of a heatmap that is not drawn yet. */
function widthBesideLabels(width) {
  const {least, most, share} = LABELS;
  return width - Math.max(least, Math.min(most, share * width));
}
