/** What the page says before there is any run. */

import {element} from "./element.js";

const CODE = `from keras_gradguard import GradHealthCallback

model.fit(x, y, callbacks=[GradHealthCallback(log_dir="logs")])`;

/** Returns the text that says what to add to the code. */
export function empty() {
  return element("section", {class: "empty"},
    element("h2", {}, "No gradients have been recorded yet"),
    element("p", {}, "Add these two lines to the code that trains the model:"),
    element("pre", {tabindex: 0, "aria-label": "Code to add"}, CODE),
    element("p", {}, "Then start TensorBoard on the same folder, ",
      element("code", {}, "tensorboard --logdir logs"),
      ". The gradients appear here once the first steps have run."));
}
