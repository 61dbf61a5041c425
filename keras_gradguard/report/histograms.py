"""Step 5 of 5: histograms as TensorBoard's own page reads them."""

import numpy as np
from tensorboard.compat.proto import types_pb2
from tensorboard.plugins.histogram import metadata

# A tag of the scalars would make TensorBoard lose both.
GROUP = "gradient_histograms"


def add_histograms(summary, histograms):
    """Adds histograms to a summary.

    Args:
        summary: A `Summary` of TensorBoard.
        histograms: By name a float array `[2 + bins]`: the ends, and the
            number of elements in each bin; one without any is left out.
    """
    known = metadata.create_summary_metadata(None, None)
    for name, row in histograms.items():
        low, high, *counts = np.asarray(row, np.float64)
        if not any(counts):
            continue
        edges = np.linspace(low, high, len(counts) + 1)
        bins = np.stack([edges[:-1], edges[1:], counts], axis=1)
        value = summary.value.add(tag=f"{GROUP}/{name}", metadata=known)
        value.tensor.dtype = types_pb2.DT_DOUBLE
        for size in bins.shape:
            value.tensor.tensor_shape.dim.add(size=size)
        value.tensor.tensor_content = bins.astype("<f8").tobytes()
