"""Output layers, losses and labels that do not fit each other.

A finding is proved by values that a probability cannot have, or by sums of 1
and the op that computes an output. It is suspected where values do not
contradict, and the activation of the output, or the sums, are those of another
loss.
"""

import keras
import numpy as np

from keras_gradguard.graph.ops import before_reshaping
from keras_gradguard.model.losses import (
    BINARY,
    CATEGORICAL,
    SPARSE,
    activation_of,
    crossentropy_of,
    given_losses,
    is_regression,
    may_misfit,
    output_layer,
)
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.records.kinds import MOST_BYTES
from keras_gradguard.source.declared import Declarations

SCORES, PROBABILITIES = "scores", "probabilities"
ONE_CLASS, LABELS = "one_class", "labels_out_of_range"
# What a change of the output layer or the loss corrects.
OF_HEAD = frozenset((SCORES, PROBABILITIES, ONE_CLASS))

# float16 rounds a probability by less.
_OUTSIDE = 1e-2
_SUM = 1e-4
# A target that is a little noisy may lie outside of [0, 1].
_FAR_OUTSIDE = 0.05
_SHARE = 0.5
_TO_UNIT = {"Sigmoid": BINARY, "Softmax": CATEGORICAL}
# Activations without an upper bound: a probability never comes of them.
_UNBOUNDED = frozenset(
    ("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus")
)
_PROVED, _SUSPECTED = "proved", "suspected"


def explain_heads(step):
    """Says which losses of a step got what does not fit them.

    Args:
        step: The `Step`, its `data` a batch. It is replayed, not op by op,
            if the model and the labels give a reason to.

    Returns:
        A list of `Finding`s.
    """
    evidence, model = step.evidence, step.model
    if (
        evidence.seen is not None
        or not evidence.has_data
        or evidence.is_shared
        or not may_misfit(model, *_label_range(step.data))
        or evidence.state_size() > MOST_BYTES
    ):
        return []
    heads = evidence.heads()
    declarations, findings = Declarations(model), []
    for number, head in enumerate(heads):
        activation = activation_of(model)
        maker = _Maker(evidence, number, len(heads))
        fault = _fault(head, maker, activation)
        if fault is None:
            continue
        cause, figures, certainty = fault
        place = layer = None
        if cause == ONE_CLASS or figures.get("activation") == "relu":
            layer = getattr(output_layer(model), "path", None)
            place = declarations.place(layer)
        place = place or declarations.loss(head.loss)
        if activation not in (None, "linear"):
            figures = {**figures, "activation": activation}
        is_only = len([h for h in heads if not h.is_inner]) == 1
        findings.append(
            Finding(
                kind="wrong",
                cause=cause,
                place=place or Place(),
                layer=layer,
                loss=head.name,
                variables=tuple(step.paths) if is_only else (),
                evidence=figures,
                certainty=certainty,
            )
        )
    return findings


def uncounted_findings(step):
    """Says of a batch in which no label counts, which trains nothing.

    Another batch may be of another kind. Whether labels are all alike is not
    said: a small batch of a rare class, or the targets of a discriminator, are.

    Args:
        step: The `Step`, its `data` a batch.

    Returns:
        A list of `Finding`s, at most one.
    """
    evidence = step.evidence
    if step.data is None or not evidence.has_data or evidence.is_shared:
        return []
    _, y, weights = keras.utils.unpack_x_y_sample_weight(step.data)
    losses = given_losses(step.model)
    given = [w for w in keras.tree.flatten(weights) if w is not None]
    known, place = {}, Place()
    if given and len(given) in (1, len(losses)):
        arrays = [_numbers(one) for one in given]
        if all(a is not None and not np.any(a) for a in arrays):
            known = {"sample_weight": 0.0}
    if not known and len(losses) == 1:
        ignored = getattr(losses[0], "ignore_class", None)
        labels = None if ignored is None else _numbers(y)
        if labels is not None and np.all(labels == ignored):
            known = {"ignore_class": ignored}
            place = Declarations(step.model).loss(losses[0]) or place
    if not known:
        return []
    return [Finding("zero", place, cause="uncounted", evidence=known)]


def _numbers(values):
    """An array, `None` for what is empty or holds no numbers."""
    if values is None or not hasattr(values, "shape"):
        return None
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, NotImplementedError):
        # Ragged and sparse labels.
        return None
    return array if array.dtype.kind in "biuf" and array.size else None


def _label_range(data):
    """The lowest and the highest label of a batch; zeros without any."""
    _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    bounds = [_bounds(one) for one in keras.tree.flatten(y)]
    lowest = min((low for low, _ in bounds), default=0.0)
    return lowest, max((high for _, high in bounds), default=0.0)


def _bounds(labels):
    """The lowest and the highest label; zeros if they are not numeric."""
    values = _numbers(labels)
    if values is None:
        return 0.0, 0.0
    return float(values.min()), float(values.max())


class _Maker:
    """Asks the trace of a step which op made the prediction of a loss."""

    def __init__(self, evidence, number, count):
        self._evidence = evidence
        self._number, self._count = number, count

    def types(self):
        """Returns the op type right behind the loss, and that behind shapes.

        Returns:
            `(nearest, activation)`, each `None` where it is not known.
        """
        trace = self._evidence.traced()
        if trace.error is not None or len(trace.losses) != self._count:
            return None, None
        tensor = trace.losses[self._number].y_pred
        if tensor is None:
            return None, None
        return tensor.op.type, before_reshaping(tensor).op.type


def _fault(head, maker, activation):
    """Says what is wrong with a head.

    Args:
        head: The `HeadCall`.
        maker: The `_Maker` of its prediction.
        activation: The name of the last activation, or `None`.

    Returns:
        `(cause, figures, certainty)`; `None` where nothing is wrong.
    """
    y_pred, known = head.y_pred, crossentropy_of(head.loss)
    if y_pred is None or not y_pred.size or not np.isfinite(y_pred).all():
        return None
    if known is None:
        return _unreachable(head, maker)
    takes_logits = head.has_logits and known.takes_logits
    return (
        _one_class(head, known)
        or _not_probabilities(head, known, takes_logits)
        or _not_scores(head, known, takes_logits, maker)
        or _not_in_range(head, known)
        or _never_probabilities(head, known, takes_logits, activation)
    )


def _one_class(head, known):
    y_pred = head.y_pred
    if not y_pred.ndim or y_pred.shape[known.axis] != 1:
        return None
    is_one = bool(np.all(np.abs(y_pred - 1.0) < _SUM))
    # A sigmoid may well give 1 for all of a batch: its logits are large.
    is_share = head.logits is not None and np.any(head.logits < 1.0)
    if known.kind in (CATEGORICAL, SPARSE) or (is_one and is_share):
        return ONE_CLASS, {}, _PROVED
    return None


def _not_probabilities(head, known, takes_logits):
    y_pred = head.y_pred
    if known.from_logits or takes_logits:
        return None
    highest = np.inf if _is_divided(known) else 1.0
    outside = (y_pred < -_OUTSIDE) | (y_pred > highest + _OUTSIDE)
    return (SCORES, _range_of(y_pred), _PROVED) if np.any(outside) else None


def _is_divided(known):
    """Whether Keras divides the shares of a loss by their sum."""
    return known.kind == CATEGORICAL and known.takes_logits


def _never_probabilities(head, known, takes_logits, activation):
    """Scores that lie in [0, 1] in this batch."""
    is_told = known.from_logits or takes_logits or _is_divided(known)
    if is_told or activation not in _UNBOUNDED or head.is_inner:
        return None
    return SCORES, _range_of(head.y_pred), _SUSPECTED


def _not_scores(head, known, takes_logits, maker):
    y_pred = head.y_pred
    if not known.from_logits or takes_logits:
        return None
    if np.any(y_pred < 0.0) or np.any(y_pred > 1.0 + _SUM):
        return None
    if known.kind != BINARY:
        rows = np.moveaxis(y_pred, known.axis, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        rounding = max(_SUM, 2.0 * np.finfo(rows.dtype).eps) * len(rows[0])
        if np.any(np.abs(rows.sum(axis=-1, dtype="float64") - 1) > rounding):
            return None
    nearest, activation = maker.types()
    wanted = BINARY if known.kind == BINARY else CATEGORICAL
    if _TO_UNIT.get(activation) != wanted:
        is_likely = wanted == CATEGORICAL and not head.is_inner
        found = PROBABILITIES, _range_of(y_pred), _SUSPECTED
        return found if is_likely else None
    # In a graph Keras takes the logits from behind such an op.
    is_taken = known.takes_logits and not (head.is_eager or head.is_cast)
    if is_taken and _TO_UNIT.get(nearest) == wanted:
        return None
    return PROBABILITIES, _range_of(y_pred), _PROVED


def _not_in_range(head, known):
    y_true = _weighted_labels(head)
    if y_true is None or known.kind == SPARSE:
        return None
    outside = y_true < -_OUTSIDE
    if known.kind == BINARY:
        # A categorical loss of counts is that of a multinomial.
        outside |= y_true > 1.0 + _OUTSIDE
    return (LABELS, _labels_of(y_true), _PROVED) if np.any(outside) else None


def _unreachable(head, maker):
    """Labels that a sigmoid, a softmax or a ReLU can never give."""
    y_true = _weighted_labels(head)
    if not is_regression(head.loss) or y_true is None:
        return None
    if head.y_true.shape != head.y_pred.shape or np.any(head.y_pred < 0.0):
        return None
    is_below, is_above = y_true < -_FAR_OUTSIDE, y_true > 1.0 + _FAR_OUTSIDE
    if np.mean(is_below | is_above) <= _SHARE:
        return None
    made_by = maker.types()[1]
    if made_by in _TO_UNIT and not np.any(head.y_pred > 1.0 + _SUM):
        return LABELS, _labels_of(y_true), _PROVED
    if made_by == "Relu" and np.mean(is_below) > _SHARE:
        return LABELS, {**_labels_of(y_true), "activation": "relu"}, _PROVED
    return None


def _weighted_labels(head):
    """The labels that count, flat; `None` where that is not known."""
    y_true = head.y_true
    if y_true is None or head.is_inner or head.is_masked or not y_true.size:
        return None
    if y_true.dtype.kind not in "biuf":
        return None
    y_true, weights = y_true.astype("float64"), head.weights
    if weights is not None:
        while weights.ndim > y_true.ndim and weights.shape[-1] == 1:
            weights = weights[..., 0]
        if weights.ndim > y_true.ndim:
            return None
        shape = weights.shape + (1,) * (y_true.ndim - weights.ndim)
        try:
            weights = np.broadcast_to(weights.reshape(shape), y_true.shape)
        except ValueError:
            return None
        y_true = y_true[weights != 0]
    is_known = y_true.size and np.isfinite(y_true).all()
    return y_true.reshape(-1) if is_known else None


def _range_of(y_pred):
    return {"lowest": float(y_pred.min()), "highest": float(y_pred.max())}


def _labels_of(y_true):
    return {
        "lowest_label": float(y_true.min()),
        "highest_label": float(y_true.max()),
    }
