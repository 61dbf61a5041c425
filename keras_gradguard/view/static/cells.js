/**
 * What one number of a record says. A cell is a norm, not below 0; `MISSING`
 * where there is no gradient, `UNMEASURED` where the step did not measure it;
 * NaN and Inf are themselves.
 */

export const MISSING = -1;
export const UNMEASURED = -2;

/** The kinds that are no ordinary norm, the worst first. */
export const SIGNS = ["nan", "inf", "missing", "zero"];

/** How each kind is called on the page. */
export const NAMES = {
  nan: "NaN", inf: "Inf", missing: "missing", zero: "zero",
  unmeasured: "not measured",
};

/** Returns "nan", "inf", "missing", "zero", "unmeasured" or "norm". */
export function kindOf(cell) {
  if (Number.isNaN(cell)) return "nan";
  if (cell === Infinity) return "inf";
  if (cell === MISSING) return "missing";
  if (cell === UNMEASURED) return "unmeasured";
  return cell === 0 ? "zero" : "norm";
}

/** Returns the worse of two cells: NaN, Inf, missing, then the largest. */
export function worse(one, other) {
  if (Number.isNaN(one) || one === Infinity && !Number.isNaN(other)) {
    return one;
  }
  if (Number.isNaN(other) || other === Infinity) return other;
  if (one === MISSING || other === MISSING) return MISSING;
  return one > other ? one : other;
}

/** Returns a cell as text, a norm with as many digits as float32 has. */
export function textOf(cell, digits = 7) {
  const kind = kindOf(cell);
  if (kind === "zero") return "0 (exactly zero)";
  if (kind !== "norm") return NAMES[kind];
  return figure(cell, digits);
}

/** Returns a number in few characters, such as 3.2e-9 or 0.015. */
export function figure(value, digits) {
  const rounded = Number(value.toPrecision(digits));
  const isPlain = rounded >= 1e-3 && rounded < 1e6;
  if (isPlain || rounded === 0) return String(rounded);
  return rounded.toExponential();
}

/** Returns "step 7" or "steps 10 to 19, the worst of 10". */
export function stepsOf([first, last, number], isWorst = true) {
  if (first === last) return `step ${first}`;
  const told = isWorst && number > 1 ? `, the worst of ${number} records` : "";
  return `steps ${first} to ${last}${told}`;
}
