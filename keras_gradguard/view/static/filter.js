/** The filter: which variables are shown. */

// Milliseconds that an expression may take for the variables of all runs.
const BOUND = 1000;
const all = () => true;

/** Returns the regular expression between two slashes, or null: words. */
function expressionOf(text) {
  const known = text.trim();
  const isOne = known.length > 2 && known.startsWith("/") &&
    known.endsWith("/");
  return isOne ? known.slice(1, -1) : null;
}

/** Returns what finds keys that have all words of a text, in any order. */
function byWords(text) {
  const words = text.toLowerCase().split(/\s+/).filter((word) => word);
  return (key) => {
    const known = key.toLowerCase();
    return words.every((word) => known.includes(word));
  };
}

/** Returns why an expression could not be tried. */
function faultOf({message, name}) {
  // "Invalid regular expression: /(/i: Unterminated group"
  const reason = message.split(": ").at(-1);
  return name === "SyntaxError"
    ? `This is not a valid regular expression (${reason}); all rows are shown.`
    : `This expression cannot be evaluated (${reason}); all rows are shown.`;
}

/**
 * Finds variables by the words in their keys, or by a regular expression. An
 * expression may come with an address that somebody has sent, and may take
 * years, so it is tried in a worker that can be ended.
 */
export class Filter {
  /** @param {function()} onChange Called when an expression is tried. */
  constructor(onChange) {
    this.onChange = onChange;
    this.expression = null;
    this.worker = null;
    this.job = 0; // which answer of the worker is awaited
    this.isBusy = false;
    this.known = new Map(); // by key: whether the expression finds it
    /** Whether a key is found; what an expression was not tried on, is. */
    this.finds = all;
    /** What is wrong with the expression, or "". */
    this.fault = "";
  }

  /**
   * Takes in what is looked for. What an expression finds is known later; until
   * then all stays as it was.
   *
   * @param {string} text What the user has typed.
   * @param {Iterable<string>} keys Those of all variables.
   */
  update(text, keys) {
    const expression = expressionOf(text);
    if (expression === null || expression !== this.expression) {
      if (this.isBusy) this.end();
      this.expression = expression;
      this.known = new Map();
      this.fault = "";
    }
    if (expression === null) {
      this.finds = byWords(text);
      return;
    }
    if (this.isBusy || this.fault) return;
    const untried = [...new Set(keys)].filter((key) => !this.known.has(key));
    if (untried.length) this.ask(untried);
  }

  ask(keys) {
    const {expression} = this;
    this.job += 1;
    this.isBusy = true;
    this.asked = keys;
    try {
      this.worker ??= this.started();
      this.worker.postMessage({expression, job: this.job, keys});
    } catch {
      this.fail("This page cannot start a web worker, which a regular " +
        "expression needs: filter by words instead.");
    }
  }

  started() {
    // A file: TensorBoard lets nothing run that is not one.
    const worker = new Worker(new URL("./expression.js", import.meta.url));
    worker.onmessage = ({data}) => {
      if (data.job === this.job && this.isBusy) this.take(data);
    };
    worker.onerror = () => {
      if (worker !== this.worker) return;
      this.fail("The web worker for regular expressions cannot be loaded: " +
        "filter by words instead.");
    };
    return worker;
  }

  /** Takes what the worker says: that it begins, or what it has found. */
  take({error, found}) {
    if (error) this.fail(faultOf(error));
    else if (found) {
      this.rest();
      this.asked.forEach((key, i) => this.known.set(key, found[i]));
      const {known} = this;
      this.finds = (key) => known.get(key) ?? true;
      this.onChange();
    } else {
      this.timer = setTimeout(() => this.fail(
        "This expression takes too long; all rows are shown."), BOUND);
    }
  }

  fail(fault) {
    this.end();
    this.fault = fault;
    this.finds = all;
    this.onChange();
  }

  end() {
    this.rest();
    this.worker?.terminate();
    this.worker = null;
  }

  rest() {
    clearTimeout(this.timer);
    this.isBusy = false;
  }
}
