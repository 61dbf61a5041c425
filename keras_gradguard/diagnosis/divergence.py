"""A training that diverges: which weights lead, since when, and by what.

An op that overflows at last is where a divergence ends. It began with the
weights: with those of the first step the same batch gives finite numbers.
"""

import dataclasses
import math

import keras
import numpy as np

from keras_gradguard.diagnosis.nonfinite import SUMS_OF_PRODUCTS
from keras_gradguard.diagnosis.places import Places
from keras_gradguard.graph.ops import DATA, is_finite
from keras_gradguard.model.optimizers import learning_rates, updating
from keras_gradguard.records.finding import Finding, Place
from keras_gradguard.source.declared import Declarations

# Weights of a healthy training grow too. Above the first a replay has to show
# that it is they that overflow; the second is proof enough.
_GROWN, _MUST_HAVE_DIVERGED = 10.0, 1e6
_LARGE, _LARGE_GRADIENT = 1e3, 1e6
# A gradient that grew by less is one that varies.
_LEAST_GROWTH = 10.0
# A norm up to this many times the smallest one has not begun to grow.
_NOISE = 2.0
# A layer that begins at zero does not grow by infinity.
_LEAST_SHARE = 1e-3
# Below this a loss has no lower bound: a log-likelihood or an ELBO that is
# summed over an image stays above it.
_BOTTOM = -1e4
_MOST_ELEMENTS = 4096
# To copy so much takes less time than an op does.
_MOST_COPIED = 2**18
_MOST_UNITS = 512
# An orthogonal matrix has 1, up to rounding.
_LEAST_RADIUS = 1.05
# Causes that name no op: the weights before the step, or behind it.
_WITHOUT_OP = ("spoiled_weight", "update")


@dataclasses.dataclass(frozen=True)
class Lead:
    """The weights that have grown most, those of one optimizer.

    Args:
        optimizer: The optimizer.
        variables: What it trains of the model.
        norms: Id of each variable that is trained -> its norm at first and
            now, without elements that are not finite.
        others: How many variables other optimizers train.
        is_finite: Whether all of them are finite now.
    """

    optimizer: object
    variables: tuple
    norms: dict
    others: int = 0
    is_finite: bool = True

    @property
    def first(self):
        """Norm of all of them as the training began."""
        return _norm([self.norms[id(v)][0] for v in self.variables])

    @property
    def now(self):
        """Norm of all of them now."""
        return _norm([self.norms[id(v)][1] for v in self.variables])

    @property
    def growth(self):
        """By which factor they have grown; those that began at zero, to."""
        return self.now / (self.first or 1.0)


class WeightNorms:
    """Remembers how large the weights were as the training began.

    Of a large variable a sample is looked at.

    Args:
        model: The model that trains.
    """

    def __init__(self, model):
        self._model, self._first = model, {}
        self.note()

    def note(self):
        """Takes in the variables that were not there before."""
        for variable in self._model.trainable_variables:
            if id(variable) not in self._first:
                first = _norm_of_finite(_sample(variable))
                self._first[id(variable)] = variable, first

    def lead(self, captures, values=()):
        """Returns the `Lead`, `None` where no optimizer has made an update.

        Args:
            captures: What is measured of each update: its `optimizer` and
                `variables`.
            values: `(variable, value)` pairs; by default what they hold now.
        """
        values = {id(variable): value for variable, value in values}
        own = {id(v): v for v in self._model.trainable_variables}
        groups = {}
        for capture in captures:
            _, group = groups.setdefault(
                id(capture.optimizer), (capture.optimizer, {})
            )
            known = (id(v) for v in capture.variables)
            group |= {k: own[k] for k in known if k in own and k in self._first}
        samples = {
            key: _sample(values.get(key, v))
            for _, group in groups.values()
            for key, v in group.items()
        }
        norms = {
            key: (self._first[key][1], _norm_of_finite(sample))
            for key, sample in samples.items()
        }
        leads = [
            Lead(
                optimizer,
                tuple(group.values()),
                norms,
                is_finite=all(np.isfinite(samples[k]).all() for k in group),
            )
            for optimizer, group in groups.values()
            if group
        ]
        if not leads:
            return None
        lead = max(leads, key=lambda lead: lead.growth)
        others = len(norms) - len(lead.variables)
        return dataclasses.replace(lead, others=others)


def _sample(value):
    """Absolute values of a sample of a tensor, float64."""
    size = math.prod(value.shape)
    stride = max(1, -(-size // _MOST_ELEMENTS))
    if size > _MOST_COPIED:
        value = keras.ops.reshape(value, [-1])[::stride]
        stride = 1
    flat = keras.ops.convert_to_numpy(value).reshape(-1)[::stride]
    return np.abs(flat).astype(np.float64)


def _norm_of_finite(sample):
    return _norm(sample[np.isfinite(sample)])


def _norm(values):
    return float(np.linalg.norm(np.asarray(values, np.float64)))


def is_of_size(findings, is_seen):
    """Returns whether a bad step is bad by the size of its numbers alone.

    Args:
        findings: The `Finding`s of the step. A logarithm, a division or an
            exponential has a cause of its own, and so has float16.
        is_seen: Whether the ops of the step were looked at.
    """
    return bool(findings) and all(
        finding.cause in _WITHOUT_OP
        or (finding.cause == "unexplained" and not is_seen)
        or (
            finding.cause == "overflow"
            and finding.op in SUMS_OF_PRODUCTS
            and "float16" not in finding.input_dtypes
        )
        for finding in findings
    )


def has_diverged(step, lead, history, values):
    """Returns whether it is grown weights that make a step overflow.

    Args:
        step: The `Step`, its `data` the batch or `None`.
        lead: The `Lead`.
        history: See `Trends.history`.
        values: `(variable, value)` pairs of the weights before it; empty if
            they were not kept.
    """
    if lead.growth > _MUST_HAVE_DIVERGED and lead.now > _LARGE:
        return True
    if lead.growth < _GROWN and lead.is_finite:
        return False
    if not values or step.data is None:
        since = _since_lowest(_totals(history, None))
        return (
            _growth_of(since) > _MUST_HAVE_DIVERGED
            and since[-1][1] > _LARGE_GRADIENT
        )
    if lead.growth < _GROWN:
        return False
    back = [(v, _shrunk(v, value, lead)) for v, value in values]
    recorded = step.evidence.recorded(back)
    return recorded.error is None and _is_finite_step(recorded)


def values_in(recorded, variables):
    """Returns the values that a recorded step has read of some variables.

    Args:
        recorded: The `Trace` of the step.
        variables: The variables.

    Returns:
        A list of `(variable, array)`.
    """
    found = []
    for variable in variables:
        arrays = [
            op.outputs[0].array()
            for tensor in recorded.graph.standing_for(variable)
            for op in tensor.consumers()
            if op.type == "ReadVariableOp"
        ]
        found += [(variable, a) for a in arrays if a is not None][:1]
    return found


def _shrunk(variable, value, lead):
    """A weight at the size that it had as the training began."""
    first, now = lead.norms.get(id(variable), (0.0, 0.0))
    return value * (first / now) if now > first else value


def _is_finite_step(recorded):
    arrays = recorded.graph.oracle.array
    targets = [t.array() for call in recorded.targets for t in call.targets]
    gradients = [arrays(g) for _, group in recorded.applied for g in group]
    return bool(targets) and all(map(is_finite, (*targets, *gradients)))


def divergence(step, lead, history, recorded, hit):
    """Returns the `Finding` of gradients that grow, by the weights that lead.

    Args:
        step: The `Step`.
        lead: The `Lead`.
        history: See `Trends.history`.
        recorded: The `Trace` of a step now, `None` where there is none.
        hit: Paths of the variables whose gradient is too large.
    """
    named = dict(zip(map(id, step.variables), step.paths, strict=True))
    own = [named[id(v)] for v in lead.variables if id(v) in named]
    since = _since_lowest(_totals(history, set(own)))
    grown = _grown(history, since)
    paths = tuple(p for p in own if p in hit or p in grown) or tuple(own)
    evidence = _numbers(lead, since)
    finding = Finding(
        kind="exploding",
        cause="exploding",
        variables=paths,
        evidence=evidence,
        notes=_told(lead, since),
    )
    if recorded is not None and recorded.error is None:
        evidence |= _of_data(recorded)
        call = _call_about(recorded, lead)
        if call is not None:
            evidence |= _of_loss(call)
            if evidence.get("loss_value", 0.0) < _BOTTOM:
                place = _place_of_loss(recorded, step.model, call)
                return dataclasses.replace(
                    finding, cause="unbounded_loss", place=place
                )
    declarations = Declarations(step.model)
    variable, radius = _widest(declarations, lead.variables)
    if radius is None:
        variable = _leading(lead, named)
    else:
        evidence["radius"] = radius
    layer = named[id(variable)].rpartition("/")[0] or None
    return dataclasses.replace(
        finding,
        layer=layer,
        place=declarations.place(layer, variable=variable) or Place(),
    )


def _totals(history, paths):
    """`(step, norm)` of the gradients of some variables, by default of all."""
    found = []
    for step, norms in history:
        own = [n for p, n in norms.items() if paths is None or p in paths]
        if own and (total := _norm(own)) > 0:
            found.append((step, total))
    return found


def _since_lowest(totals):
    """The records from the last one on whose norm has not begun to grow."""
    lowest = min((norm for _, norm in totals), default=0.0)
    begins = [n for n, t in enumerate(totals) if t[1] <= _NOISE * lowest]
    return totals[begins[-1] :] if begins else []


def _growth_of(totals):
    return totals[-1][1] / totals[0][1] if totals else 1.0


def _grown(history, since):
    """Paths of the gradients that have grown since then."""
    if not since:
        return set()
    first = next(norms for step, norms in history if step == since[0][0])
    return {
        path
        for path, norm in history[-1][1].items()
        if norm > _LEAST_GROWTH * first.get(path, norm)
    }


def _numbers(lead, since):
    evidence = {
        "optimizer": type(updating(lead.optimizer)).__name__,
        "weights_grew": lead.growth,
    }
    rates = [rate for _, rate in learning_rates(lead.optimizer)]
    if len(rates) == 1:
        evidence["learning_rate"] = rates[0]
    if since:
        evidence |= {"since_step": since[0][0], "norm": since[-1][1]}
    return evidence


def _told(lead, since):
    """The history, a sentence for each of its facts."""
    notes = []
    if _growth_of(since) > _NOISE:
        (begin, first), (end, last) = since[0], since[-1]
        notes.append(
            f"their gradient norm grew from {first:.2g} at step {begin} to "
            f"{last:.2g} at step {end}"
        )
    notes.append(
        f"the norm of these weights grew from {lead.first:.2g} to "
        f"{lead.now:.2g}"
    )
    if lead.others:
        notes.append(f"the {lead.others} variables that others train grew less")
    return tuple(notes)


def _leading(lead, named):
    """A variable of the layer whose weights have grown most."""
    layers, least = {}, _LEAST_SHARE * lead.first
    for variable in lead.variables:
        layer = named.get(id(variable), "").rpartition("/")[0]
        layers.setdefault(layer, []).append(variable)

    def growth(variables):
        norms = [lead.norms[id(v)] for v in variables]
        first, now = (_norm(column) for column in zip(*norms, strict=True))
        return now / max(first, least) if now else 0.0

    members = max(layers.values(), key=growth)
    return max(members, key=lambda v: lead.norms[id(v)][1])


def _of_data(recorded):
    """The largest input and target of the batch."""
    found = {}
    for name, key in (("x", "largest_input"), ("y", "largest_target")):
        arrays = [
            tensor.array()
            for part, tensor in recorded.batch
            if part == name and tensor is not None and tensor.kind == DATA
        ]
        sizes = [float(np.abs(a).max()) for a in arrays if a is not None]
        if sizes:
            found[key] = max(sizes)
    return found


def _call_about(recorded, lead):
    """What asks for the gradients of the leading weights."""
    calls = [
        call
        for call in recorded.targets
        if len(call.targets) == 1 and any(map(call.is_about, lead.variables))
    ]
    return calls[-1] if calls else None


def _of_loss(call):
    (target,) = call.targets
    value = target.array()
    known = {}
    if value is not None and value.size == 1 and not np.isnan(value).any():
        known["loss_value"] = float(value.reshape(-1)[0])
    if _is_sum(target):
        known["reduction"] = "sum"
    return known


# What hands a number on as it is.
_COPIES = ("Identity", "Cast", "Reshape", "Squeeze")


def _is_sum(target):
    """Whether a loss is a sum over the batch that nothing divides."""
    op = target.op
    while op.type in _COPIES and op.inputs:
        op = op.inputs[0].op
    if op.type != "Sum" or not op.inputs:
        return False
    shape = op.inputs[0].shape
    return bool(shape) and shape[0] is not None and shape[0] > 1


def _place_of_loss(recorded, model, call):
    """The line of the user's that gives the loss its value."""
    places = Places(recorded, model)
    (target,) = call.targets
    queue, seen = [target.op], set()
    while queue:
        op = queue.pop(0)
        if op in seen or op.number < 0 or not places.is_in_loss(op):
            continue
        seen.add(op)
        place, _ = places.place(op)
        if place.line is not None:
            return place
        queue += [tensor.op for tensor in op.inputs]
    return places.loss_place(target.op)


def _widest(declarations, variables):
    """The recurrent matrix that lengthens its state most from step to step.

    Returns:
        `(variable, spectral radius)` as the training began, `(None, None)`
        where none is above 1.
    """
    found = []
    for variable in variables:
        layer = declarations.owner(variable)
        if getattr(layer, "recurrent_kernel", None) is variable:
            found.append((variable, _radius(layer, tuple(variable.shape))))
    wide = [(v, r) for v, r in found if r is not None and r > _LEAST_RADIUS]
    return max(wide, key=lambda pair: pair[1], default=(None, None))


def _radius(layer, shape):
    """The spectral radius that an initialiser gives a recurrent matrix.

    With a seed, as Keras gives it, it makes the same one again.
    """
    make = getattr(layer, "recurrent_initializer", None)
    is_square = len(shape) == 2 and shape[0] == shape[1] <= _MOST_UNITS
    if (
        make is None
        or not is_square
        or not isinstance(getattr(make, "seed", 0), int)
    ):
        return None
    matrix = keras.ops.convert_to_numpy(make(shape, dtype="float32"))
    return float(np.abs(np.linalg.eigvals(matrix)).max())
