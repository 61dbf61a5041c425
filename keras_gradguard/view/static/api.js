/** What the server tells, see `keras_gradguard/view/plugin.py`. */

async function ask(route, known = {}) {
  const query = new URLSearchParams(
    Object.entries(known).filter(([, value]) => value != null));
  let answer;
  try {
    answer = await fetch(`./${route}?${query}`);
  } catch (error) {
    throw new Error(`TensorBoard does not respond (${error.message})`);
  }
  if (!answer.ok) {
    const text = (await answer.text()).trim();
    const fault = new Error(text || `TensorBoard answered ${answer.status}`);
    fault.isAnswer = true; // the server is there
    throw fault;
  }
  return answer.json();
}

/** Returns float32 numbers out of base64. */
function numbersOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  // Uint8Array.from takes twenty times as long.
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

/** Returns all runs, sorted by name. */
export async function runs() {
  return (await ask("runs")).runs;
}

/**
 * Returns the table of a run, variables x columns.
 *
 * @param {string} run Name of the run.
 * @param {number} columns The most columns that are wanted.
 * @param {?number} first First step that is wanted.
 * @param {?number} last Last step that is wanted.
 */
export async function table(run, columns, first, last) {
  const known = await ask("norms", {run, columns, first, last});
  return {
    variables: known.variables,
    columns: known.columns,
    norms: numbersOf(known.norms),
    updates: numbersOf(known.updates),
    firstStep: known.first_step,
    lastStep: known.last_step,
    numRecords: known.num_records,
  };
}

/** Returns diagnoses, losses and incidents of a run. */
export function details(run) {
  return ask("details", {run});
}
