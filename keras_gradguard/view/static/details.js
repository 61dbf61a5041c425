/** Beside the heatmaps: diagnoses, incidents and losses of each run. */

import {card, newestFirst} from "./cards.js";
import {element} from "./element.js";
import {incident} from "./incidents.js";
import {matrix} from "./matrix.js";

/** Shows what is known of the shown runs. */
export class Details {
  /**
   * @param {State} state What the user has chosen.
   * @param {function(string)} open Opens a card, or closes it.
   */
  constructor(state, open) {
    this.state = state;
    this.open = open;
    this.whole = new Set();
    this.root = element(
      "aside", {class: "details", "aria-label": "Diagnoses"});
    this.known = "";
  }

  /**
   * Draws what has changed.
   *
   * @param {Object[]} runs `run` and `details` (or null) of each.
   */
  update(runs) {
    const content = JSON.stringify([runs, this.state.card, [...this.whole]]);
    if (content === this.known) return;
    this.known = content;
    this.runs = runs;
    const {activeElement} = document;
    const held = this.root.contains(activeElement)
      ? activeElement.dataset.card ?? activeElement.closest(
        "[data-card]")?.dataset.card : null;
    const top = this.root.scrollTop;
    this.root.replaceChildren(
      ...runs.map((known) => this.section(known, runs.length > 1)));
    this.root.scrollTop = top;
    if (held != null) this.head(held)?.focus({preventScroll: true});
  }

  /** Brings a card into view, and the focus to it. */
  reveal(id) {
    const head = this.head(id);
    head?.focus({preventScroll: true});
    head?.closest(".card").scrollIntoView({block: "nearest"});
  }

  head(id) {
    return [...this.root.querySelectorAll("button[data-card]")]
      .find(({dataset}) => dataset.card === id);
  }

  section({details, run}, isNamed) {
    const parts = details ? this.parts(run, details) : [];
    return element("section", {"aria-label": `Diagnoses of ${run}`},
      isNamed ? element("h2", {class: "run-name"}, run) : null, ...parts);
  }

  parts(run, {diagnoses, incidents, losses}) {
    const cards = newestFirst(run, diagnoses).map((known) => card(
      known, known.id === this.state.card, () => this.open(known.id)));
    const parts = [
      element("h3", {}, "Diagnoses"),
      ...(cards.length ? cards
        : [element("p", {class: "note"}, "None.")]),
    ];
    if (incidents.length) {
      parts.push(element("h3", {}, "Saved NaN or Inf steps"),
        ...incidents.toReversed().map(incident));
    }
    if (losses !== null && losses.terms.length > 1) {
      parts.push(element("h3", {}, "Losses"),
        matrix(run, losses, this.whole.has(run), () => {
          this.whole.add(run);
          this.update(this.runs);
        }));
    }
    return parts;
  }
}
