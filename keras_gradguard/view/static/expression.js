/** A worker that tries regular expressions, see `filter.js`. */

self.onmessage = ({data: {expression, job, keys}}) => {
  self.postMessage({job}); // from here on the time counts
  try {
    const pattern = new RegExp(expression, "i");
    self.postMessage({job, found: keys.map((key) => pattern.test(key))});
  } catch ({message, name}) {
    self.postMessage({job, error: {message, name}});
  }
};
