/** TensorBoard around this page: its theme and its messages. */

function parentDocument() {
  try {
    return window.parent.document;
  } catch {
    return null; // another origin, such as a notebook's
  }
}

/** Follows TensorBoard's theme, or the system's where it tells none. */
export function followTheme() {
  const around = parentDocument();
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isInside = around !== null && around !== document;
  const follow = () => {
    const isDark = isInside
      ? around.body.classList.contains("dark-mode") : system.matches;
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
  };
  if (isInside) {
    new MutationObserver(follow).observe(
      around.body, {attributes: true, attributeFilter: ["class"]});
  } else {
    system.addEventListener("change", follow);
  }
  follow();
}

/**
 * Listens to TensorBoard's reload button.
 *
 * @param {function()} onReload Called when there may be new data.
 */
export function followReload(onReload) {
  const channel = new MessageChannel();
  channel.port1.onmessage = (event) => {
    const {id, isReply, type} = JSON.parse(event.data);
    if (isReply) return;
    if (type === "experimental.DataReloaded") onReload();
    // Each message must be answered, also one that we do not know.
    const answer = {id, type, payload: null, error: null, isReply: true};
    channel.port1.postMessage(JSON.stringify(answer));
  };
  window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
}
