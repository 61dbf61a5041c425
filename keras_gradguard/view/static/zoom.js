/** Which steps are shown: two numbers and buttons. */

import {button, element} from "./element.js";

/** Controls of `state.first` and `state.last`. */
export class Zoom {
  /** @param {State} state What the user has chosen. */
  constructor(state) {
    this.state = state;
    this.extent = null;
    const number = (name) => element("input", {
      type: "number", min: 0, step: 1, "aria-label": `${name} step shown`,
      on: {change: () => this.take()},
    });
    this.inputs = [number("First"), number("Last")];
    this.buttons = [
      ["−", "Zoom out", () => this.by("-")],
      ["+", "Zoom in", () => this.by("+")],
      ["◂", "Earlier steps", () => this.move(-1)],
      ["▸", "Later steps", () => this.move(1)],
      ["All steps", null, () => this.to(null, null)],
    ].map(([text, name, act]) => button(
      text, act, {"aria-label": name, title: name}));
    this.root = element("div", {
      class: "zoom", role: "group", "aria-label": "Steps shown",
    }, element("span", {class: "what"}, "Steps"), this.inputs[0], "–",
    this.inputs[1], ...this.buttons);
  }

  /** Takes in the first and the last step of all shown runs. */
  update(extent) {
    this.extent = extent;
    const {first, last} = this.state;
    const shown = this.shown() ?? ["", ""];
    this.inputs.forEach((input, i) => {
      if (input !== document.activeElement) input.value = shown[i];
      input.disabled = extent === null;
    });
    const isAll = first === null && last === null;
    this.buttons.forEach((one, i) => {
      // A disabled button would lose the focus of the one who pressed it.
      one.setAttribute("aria-disabled", String(
        extent === null || isAll && i !== 1));
    });
  }

  shown() {
    if (this.extent === null) return null;
    const {first, last} = this.state;
    return [first ?? this.extent[0], last ?? this.extent[1]];
  }

  take() {
    const [first, last] = this.inputs.map(
      ({value}) => value === "" ? null : Math.round(Number(value)));
    if (first !== null && last !== null && first > last) this.to(last, first);
    else this.to(first, last);
  }

  /** Shows steps from `first` to `last`, both included. */
  to(first, last) {
    const [low, high] = this.extent ?? [null, null];
    this.state.set({
      first: first === null || first <= low ? null : first,
      last: last === null || last >= high ? null : last,
    });
  }

  /** Zooms in ("+"), out ("-") or to all ("0"), about a step. */
  by(key, about = null) {
    const shown = this.shown();
    if (shown === null) return;
    if (key === "0") return this.to(null, null);
    const middle = about ?? (shown[0] + shown[1]) / 2;
    const half = (shown[1] - shown[0]) / (key === "+" ? 4 : 1);
    this.to(Math.max(0, Math.floor(middle - half)), Math.ceil(middle + half));
  }

  move(direction) {
    const shown = this.shown();
    if (shown === null) return;
    const [low, high] = this.extent;
    const width = shown[1] - shown[0];
    const far = direction * Math.max(1, Math.round(width / 2));
    const first = Math.max(low, Math.min(high - width, shown[0] + far));
    this.to(first, first + width);
  }
}
