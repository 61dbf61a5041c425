"""The rows of a report, made when somebody asks for them."""

import collections
import dataclasses
import math

import numpy as np

from keras_gradguard.records.health import OptimizerHealth, VariableHealth
from keras_gradguard.records.norms import MISSING, UNMEASURED


def keyed(measured, histograms, paths_of):
    """Returns the histograms of a record by what their rows are called.

    Args:
        measured: What `Probe.read` returns.
        histograms: What `Probe.histograms` returns.
        paths_of: Returns the unique paths of some variables.

    Returns:
        A dict: `VariableHealth.key` to a row of `histogram`.
    """
    known = collections.defaultdict(list)
    for update, rows in zip(measured, histograms, strict=True):
        variables, figures, _, name = update
        for path, row, own in zip(
            paths_of(variables), rows, figures, strict=True
        ):
            if own[0] != UNMEASURED:
                known[path].append((name, row))
    return {
        path if len(found) == 1 else f"{path}@{name}": row
        for path, found in known.items()
        for name, row in found
    }


def unique_paths(variables):
    """Returns the Keras paths of variables, `#2` added where one repeats.

    Args:
        variables: Keras variables; a bare `tf.Variable` goes by its name.
    """
    count, paths = collections.Counter(), []
    for variable in variables:
        path = getattr(variable, "path", None) or variable.name
        count[path] += 1
        paths.append(f"{path}#{count[path]}" if count[path] > 1 else path)
    return tuple(paths)


def variable_health(variable, path, figures=None, step=None, ratio=None):
    """Returns the `VariableHealth` of one measured gradient.

    Args:
        variable: The Keras variable.
        path: Its unique path.
        figures: A row of `capture.statistics`, `MISSING` for no
            gradient, `None` if it was not measured.
        step: Step of the measurement.
        ratio: Norm of the update over that of the weight, or `None`.
    """
    known = {}
    if figures is None:
        status = "unknown"
    elif figures is MISSING or figures[0] == MISSING:
        status = "missing"
    else:
        norm, largest, mean, zero_share, num_nonfinite = map(float, figures)
        status = _status(norm, largest, num_nonfinite)
        known = {
            "norm": norm,
            "largest": largest,
            "mean": mean,
            "zero_share": zero_share,
            "num_nonfinite": int(num_nonfinite),
        }
        if ratio is not None and ratio != UNMEASURED:
            known["update_ratio"] = float(ratio)
    return VariableHealth(
        path=path,
        shape=tuple(variable.shape),
        dtype=_dtype_name(variable),
        status=status,
        step=step,
        **known,
    )


def optimizer_health(name, capture, paths, num_replicas=1):
    """Returns the `OptimizerHealth` of one optimizer.

    Args:
        name: Its name.
        capture: Its `OptimizerCapture`.
        paths: Paths of its variables.
        num_replicas: How many replicas train.
    """
    treatment = capture.treatment
    known = treatment.read()
    gradient = "batch" if treatment.accumulation_steps == 1 else "micro-batch"
    if num_replicas > 1:
        is_clipped = treatment.clip is not None
        gradient = "sum over replicas" + is_clipped * ", clipped"
    scale = float(capture.optimizer.scale_loss(1.0))
    clip = treatment.clip
    return OptimizerHealth(
        name=name,
        variables=tuple(paths),
        gradient=gradient,
        accumulation_steps=treatment.accumulation_steps,
        loss_scale=scale if treatment.is_scaled or scale != 1 else None,
        num_skipped=known["num_skipped"],
        clipping=None if clip is None else f"{clip[0]}={clip[1]}",
        clipped_share=known["clipped_share"],
    )


def optimizer_numbers(optimizers):
    """Returns what is drawn of optimizers: numbers by tag.

    Args:
        optimizers: `OptimizerHealth`s; the name of each is part of the tag
            where there are several.
    """
    numbers = {}
    for optimizer in optimizers:
        own = f"{optimizer.name}/" if len(optimizers) > 1 else ""
        for field in ("loss_scale", "num_skipped", "clipped_share"):
            value = getattr(optimizer, field)
            if value is not None:
                numbers[f"{own}{field}"] = value
    return numbers


def global_norm(norms):
    """Returns the L2 norm over all gradients that are there, or `None`.

    Args:
        norms: Their norms, of those that are there.
    """
    present = np.asarray(norms, np.float64)
    if not present.size:
        return None
    # Of NaN and Inf, too, it is what Python makes of them: NaN is worse.
    return float(np.sqrt(np.square(present).sum()))


def _status(norm, largest, num_nonfinite):
    if num_nonfinite or not math.isfinite(norm):
        return "nonfinite"
    return "zero" if largest == 0 else "ok"


def _dtype_name(variable):
    dtype = variable.dtype
    return dtype if isinstance(dtype, str) else dtype.name


@dataclasses.dataclass
class _LastRecord:
    """What one optimizer's last record has shown, and whether it is rows."""

    variables: tuple
    paths: tuple
    statistics: np.ndarray
    updates: np.ndarray | None
    step: int | None
    is_done: bool = False


class HealthRows:
    """Holds the rows of the variables of one training.

    A record of each step would make as many rows as there are variables,
    which nobody may ever look at. So the arrays are kept, and become rows
    once they are asked for.
    """

    def __init__(self):
        # By path, then by the name of the update; `None` for one by itself.
        self._rows = {}
        self._last, self._known_paths = {}, {}
        self._places = self._sorted = None

    @property
    def order(self):
        """The place of each path among the rows, a dict."""
        return self._layout()[1]

    @property
    def version(self):
        """What stays the same object as long as the rows are those of it."""
        return self._layout()[0]

    def is_in_row_order(self, paths):
        """Returns whether paths are in the order of the rows.

        Args:
            paths: A tuple; the same object is looked at once.
        """
        known = (paths, self.version)
        if self._sorted is None or any(
            a is not b for a, b in zip(known, self._sorted, strict=True)
        ):
            places = [self.order[path] for path in paths]
            if sorted(set(places)) != places:
                return False
            self._sorted = known
        return True

    def add(self, variable, path):
        """Has a row for a variable that may not be measured yet."""
        if path not in self._rows:
            self._rows[path] = {None: variable_health(variable, path)}
            self._places = None

    def add_missing(self, variable, path, step):
        """Notes that a variable gets no gradient."""
        self._fill()
        row = variable_health(variable, path, MISSING, step)
        self._rows[path] = {None: row}
        # It takes the place of the rows of its variable.
        self._known_paths.clear()
        self._places = None

    def add_record(self, name, variables, paths, statistics, updates, step):
        """Takes in what one optimizer's record has shown.

        Args:
            name: Its name, see `VariableHealth.optimizer`.
            variables: The variables that were measured.
            paths: Their paths.
            statistics: See `capture.statistics`.
            updates: See `capture.movement`, or `None`.
            step: The step.
        """
        if self._known_paths.get(name) is not paths:
            self._fill()
            self._make_room(name, variables, paths)
        self._last[name] = _LastRecord(
            variables, paths, statistics, updates, step
        )

    def _make_room(self, name, variables, paths):
        """Makes room for the rows of one optimizer."""
        for variable, path in zip(variables, paths, strict=True):
            rows = self._rows.setdefault(path, {})
            if name not in rows:
                # As long as nothing is measured.
                row = rows.pop(None, None) or variable_health(variable, path)
                rows[name] = row
                self._places = None
        self._known_paths[name] = paths

    def rows(self):
        """Returns a `VariableHealth` of each variable or update of it."""
        self._fill()
        return tuple(
            row if len(rows) == 1 else dataclasses.replace(row, optimizer=n)
            for rows in self._rows.values()
            for n, row in rows.items()
        )

    def norm_values(self, step):
        """Returns the norms and the update ratios of one step, two arrays.

        Their elements are in the order of the rows, `UNMEASURED` where that
        step has not measured them.

        Args:
            step: The step.
        """
        places = self._layout()[2]
        norms = np.full(len(places), UNMEASURED, np.float32)
        ratios = norms.copy()
        for name, last in self._last.items():
            if last.step == step:
                own = [places[path, name] for path in last.paths]
                norms[own] = last.statistics[:, 0]
                if last.updates is not None:
                    is_there = last.statistics[:, 0] != MISSING
                    found = last.updates[:, 0]
                    ratios[own] = np.where(is_there, found, UNMEASURED)
        return norms, ratios

    def _layout(self):
        if self._places is None:
            keys = [(p, n) for p, rows in self._rows.items() for n in rows]
            places = {key: number for number, key in enumerate(keys)}
            order = {path: number for number, path in enumerate(self._rows)}
            self._places = object(), order, places
        return self._places

    def _fill(self):
        """Makes rows of the last records."""
        for name, last in self._last.items():
            if last.is_done:
                continue
            last.is_done = True
            for number, path in enumerate(last.paths):
                ratio = last.updates
                self._rows[path][name] = variable_health(
                    last.variables[number],
                    path,
                    last.statistics[number],
                    last.step,
                    None if ratio is None else ratio[number][0],
                )
