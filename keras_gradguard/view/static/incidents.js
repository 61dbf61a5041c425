/** Steps that were not finite and were kept, to be run once more. */

import {button, element} from "./element.js";

/** Returns one incident. */
export function incident(known) {
  const {command, epoch, notes, step, variables} = known;
  const when = epoch === null ? `step ${step}` : `step ${step}, epoch ${epoch}`;
  const code = element(
    "code", {class: "command", tabindex: 0, "aria-label": "Command"}, command);
  const told = element("span", {role: "status"});
  const copy = button("Copy", () => copied(code, told), {
    "aria-label": `Copy the command that replays step ${step}`,
  });
  return element("article", {class: "incident"},
    element("h4", {}, when, known.message === null ? null
      : element("span", {class: "message"}, `: ${known.message}`)),
    element("dl", {},
      element("dt", {}, "samples"), element("dd", {}, samplesOf(known)),
      ...(variables.length ? [element("dt", {}, "not finite"),
        element("dd", {}, variables.join(", "))] : []),
      element("dt", {}, "saved in"), element("dd", {}, known.folder),
      ...(notes ?? []).flatMap((note) => [
        element("dt", {}, "note"), element("dd", {}, note)])),
    element("p", {}, "Replay this step:"),
    element("div", {class: "copy"}, code, copy, told));
}

function samplesOf({batch_size: size, num_samples: number, samples}) {
  const of = size === null ? "" : ` of a batch of ${size}`;
  if (samples === null) {
    return size === null ? "unknown" : `unknown (batch of ${size})`;
  }
  const more = number > samples.length ? `, … (${number} in all)` : "";
  return `${samples.join(", ")}${more}${of}, counted from 0`;
}

async function copied(code, told) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    told.textContent = "copied";
  } catch {
    // No clipboard without https: the user's own copy key does it.
    window.getSelection().selectAllChildren(code);
    told.textContent = "selected: press Ctrl+C or ⌘C";
  }
}
