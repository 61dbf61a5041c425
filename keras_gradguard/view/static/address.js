/** What is shown, in TensorBoard's address, so that a view can be shared. */

const PLUGIN = "keras_gradguard";
const PREFIX = "gg_";
const KEPT = "keras_gradguard/address";

function outerWindow() {
  try {
    void window.parent.location.hash;
    return window.parent;
  } catch {
    return null; // another origin, such as a notebook's
  }
}

function hash() {
  const known = outerWindow()?.location.hash.slice(1) ?? "";
  if (known.includes(PREFIX)) return known;
  // TensorBoard rewrites its address when another tab is opened.
  return sessionStorage.getItem(KEPT) ?? "";
}

/**
 * Returns the values that the address holds.
 *
 * @param {Object} defaults Each value as it is when the address is silent.
 */
export function read(defaults) {
  const known = {...defaults};
  for (const part of hash().split("&")) {
    const [key, text] = part.split("=");
    const name = key.slice(PREFIX.length);
    if (!key.startsWith(PREFIX) || !Object.hasOwn(defaults, name)) continue;
    try {
      known[name] = JSON.parse(decodeURIComponent(text));
    } catch {
      continue; // cut off when it was passed on
    }
  }
  return known;
}

/** Puts the values that differ from their defaults into the address. */
export function write(values, defaults) {
  const parts = [];
  for (const [name, value] of Object.entries(values)) {
    const text = JSON.stringify(value);
    if (text === JSON.stringify(defaults[name])) continue;
    parts.push(`${PREFIX}${name}=${encodeURIComponent(text)}`);
  }
  sessionStorage.setItem(KEPT, parts.join("&"));
  const outer = outerWindow();
  if (outer === null || outer === window) return;
  const others = outer.location.hash.slice(1).split("&").filter(
    (part) => part && !part.startsWith(PREFIX));
  // While another tab is open the address is that tab's.
  if (others.length && others[0] !== PLUGIN) return;
  const wanted = [...(others.length ? others : [PLUGIN]), ...parts].join("&");
  outer.history.replaceState(outer.history.state, "", `#${wanted}`);
}

/** Tells of a new address, such as another link into this tab. */
export function followAddress(onChange) {
  outerWindow()?.addEventListener("hashchange", () => {
    const [plugin] = outerWindow().location.hash.slice(1).split("&");
    if (plugin === PLUGIN) onChange();
  });
}
