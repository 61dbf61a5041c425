/** The entry: TensorBoard imports this module and calls `render`. */

import {element} from "./element.js";
import {followReload, followTheme} from "./host.js";
import {Page} from "./page.js";

function styled() {
  return new Promise((resolve) => {
    document.head.append(element("link", {
      rel: "stylesheet", href: "./page.css",
      on: {load: resolve, error: resolve},
    }));
  });
}

/** Draws the tab. */
export async function render() {
  document.documentElement.lang = "en";
  document.title = "Gradients";
  followTheme();
  await styled();
  const page = new Page();
  document.body.replaceChildren(page.root);
  const fail = ({message}) => page.fail(`The page has failed: ${message}`);
  window.addEventListener("error", fail);
  window.addEventListener("unhandledrejection", ({reason}) => fail(reason));
  followReload(() => page.load());
  await page.load();
}
