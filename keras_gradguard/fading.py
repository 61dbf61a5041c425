"""Step 3 of 5: gradients that fade or explode, in plain Python.

A record maps each layer, in model order, to the `Numbers` of its variables.
"""

import dataclasses
import math

# A gradient that comes to life again, as behind a scale that begins at zero,
# is not vanishing.
_RECOVERY = 2.0


@dataclasses.dataclass(frozen=True)
class Sign:
    """A layer or a variable that is too small or too large for long.

    Args:
        kind: `"vanishing"` or `"exploding"`.
        paths: Paths of the variables.
        evidence: The figures behind it.
    """

    kind: str
    paths: tuple[str, ...]
    evidence: dict


def vanishing(records, limits):
    """Returns the `Sign` of layers that get too little, if there are any.

    Every variable of a layer must: a bias alone, before a normalisation or
    in the keys of attention, may have no effect by design.

    Args:
        records: The last records, the oldest first.
        limits: The `Thresholds`.
    """
    lasting = set.intersection(*(_small(record, limits) for record in records))
    first, last = records[0], records[-1]
    if limits.vanishing_decay is not None:
        factor = limits.vanishing_decay
        lasting = {
            layer
            for layer in lasting
            if _mean(last[layer]) <= factor * _mean(first[layer])
        }
    layers = [
        layer
        for layer in last
        if layer in lasting
        and _norm(last[layer]) <= _RECOVERY * _norm(first[layer])
    ]
    if not layers:
        return []
    top = max(map(_norm, last.values()))
    figures = last[layers[0]]
    evidence = {
        "mean": _mean(figures),
        "norm": _norm(figures),
        "ratio": _norm(figures) / top if top else 0.0,
        "records": len(records),
    }
    paths = tuple(path for layer in layers for path in last[layer])
    return [Sign("vanishing", paths, evidence)]


def _small(record, limits):
    """The layers of one record whose every variable gets too little."""
    names, found = list(record), set()
    later, is_next_small = 0.0, False
    ratio = limits.vanishing_ratio
    for layer in reversed(names):
        norm, mean = _norm(record[layer]), _mean(record[layer])
        is_low = ratio is None or norm < ratio * later
        level = limits.vanishing_mean
        is_small = level is not None and mean < level and is_low
        # What underflows to zero before layers that fade fades too.
        is_next_small = is_small and (norm > 0 or is_next_small)
        if is_next_small:
            found.add(layer)
        later = max(later, norm if math.isfinite(norm) else 0.0)
    return found | set(_faded_from_the_first(record, limits))


def _faded_from_the_first(record, limits):
    names, faded = list(record), []
    ratio, level = limits.vanishing_ratio, limits.vanishing_norm
    if level is None or ratio is None:
        return []
    for number, layer in enumerate(names):
        norm = _norm(record[layer])
        later = max((_norm(record[n]) for n in names[number + 1 :]), default=0)
        if not (norm < level and norm < ratio * later < math.inf):
            break
        faded.append(layer)
    return faded if any(_norm(record[layer]) for layer in faded) else []


def exploding(records, limits):
    """Returns the `Sign` of gradients that are too large, if there are any.

    Args:
        records: The last records, the oldest first.
        limits: The `Thresholds`.
    """
    paths, evidence = [], {"records": len(records)}
    if limits.exploding_mean is not None:
        for layer, figures in records[-1].items():
            for path in figures:
                means = [record[layer][path].mean for record in records]
                if min(means) > limits.exploding_mean and _grew(means, limits):
                    paths.append(path)
                    largest = max(means[-1], evidence.get("mean", 0.0))
                    evidence["mean"] = largest
    if limits.exploding_ratio is not None and len(records[-1]) > 1:
        first, last = list(records[-1])[0], list(records[-1])[-1]
        norms = [_norm(record[first]) for record in records]
        ends = [_norm(record[last]) for record in records]
        if _is_far_above(norms, ends, limits) and _grew(norms, limits):
            paths += [p for p in records[-1][first] if p not in paths]
            evidence["norm"] = norms[-1]
            evidence["ratio"] = norms[-1] / ends[-1] if ends[-1] else math.inf
    return [Sign("exploding", tuple(paths), evidence)] if paths else []


def _is_far_above(norms, ends, limits):
    return min(norms) > limits.exploding_norm and all(
        math.inf > first > limits.exploding_ratio * last
        for first, last in zip(norms, ends, strict=True)
    )


def _grew(values, limits):
    factor = limits.exploding_growth
    if not all(map(math.isfinite, values)):
        return False
    return factor is None or values[-1] > factor * values[0]


def _norm(figures):
    """The largest norm among the variables of a layer, 0 if none has one."""
    known = [n.norm for n in figures.values() if n.norm is not None]
    return max(known, default=0.0)


def _mean(figures):
    """The largest mean among the variables of a layer."""
    known = [n.mean for n in figures.values() if n.norm is not None]
    return max(known, default=0.0)
