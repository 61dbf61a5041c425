"""The rows of a report: plain values, no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class OptimizerHealth:
    """How one optimizer treats its gradients.

    Args:
        name: Its name, made unique with `#2`, `#3`.
        variables: Paths of the variables it updates.
        gradient: Which gradient was measured: `"batch"`; `"micro-batch"`, if
            the optimizer accumulates gradients; `"sum over replicas"`; or
            `"sum over replicas, clipped"`, if each replica clips its own
            gradient before the sum.
        accumulation_steps: Number of micro-batches per update.
        loss_scale: Current loss scale, `None` if there is none.
        num_skipped: Steps skipped by a dynamic loss scale because the scaled
            gradient was not finite; `None` if the scale is not dynamic.
        clipping: For example `"global_clipnorm=1.0"`; `None` without
            clipping.
        clipped_share: Share of steps in which clipping changed the gradient,
            0 to 1; for `clipvalue`, share of the recorded steps. `None` with
            several micro-batches or replicas.
    """

    name: str
    variables: tuple[str, ...]
    gradient: str = "batch"
    accumulation_steps: int = 1
    loss_scale: float | None = None
    num_skipped: int | None = None
    clipping: str | None = None
    clipped_share: float | None = None

    @property
    def is_special(self):
        """Whether it does more than apply the gradients of each batch."""
        known = (self.loss_scale, self.clipping)
        return self.gradient != "batch" or any(k is not None for k in known)

    def to_dict(self):
        """Returns the row as JSON-ready values."""
        values = dataclasses.asdict(self)
        return {**values, "variables": list(self.variables)}

    def __str__(self):
        facts = [f"norms of the {self.gradient}"]
        if self.accumulation_steps > 1:
            facts.append(f"one update per {self.accumulation_steps} of them")
        if self.loss_scale is not None:
            facts.append(f"loss scale {self.loss_scale:g}")
        if self.num_skipped:
            facts.append(f"{self.num_skipped} steps skipped because of it")
        if self.clipping is not None:
            share = self.clipped_share
            often = (
                "" if share is None else f" took effect in {share:.0%} of steps"
            )
            facts.append(f"{self.clipping}{often}")
        return f"{self.name}: {', '.join(facts)}"


@dataclasses.dataclass(frozen=True)
class VariableHealth:
    """The gradient of one trainable variable; a missing one is a row too.

    Args:
        path: Keras path, with `#2`, `#3` added to repeated paths.
        shape: Shape of the variable.
        dtype: Name of its dtype.
        status: `"ok"`, `"missing"`, `"zero"`, `"nonfinite"`; `"vanishing"`
            or `"exploding"` after a diagnosis of that kind; `"unknown"` (not
            measured yet).
        norm: L2 norm of the gradient, without loss scaling and before
            clipping; `None` if there is no gradient or it was not measured.
            The same holds for the statistics below.
        step: Step of the measurement, or `None`.
        largest: Largest absolute value of the gradient.
        mean: Mean absolute value.
        zero_share: Share of elements that are exactly zero, 0 to 1.
        num_nonfinite: Number of elements that are NaN or Inf.
        update_ratio: L2 norm of the last update over that of the weight,
            from a sample of at most 4,096 elements of each variable, or 64
            rows of a sparse gradient; `None` if not measured.
        optimizer: Identifies the update, if a step makes several of this
            variable: the attribute that holds the optimizer, with `#2` added
            for its second `apply` in the step. `None` if there is only one.
        accepted: Why a status other than `"ok"` is accepted, or `None`.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    status: str = "unknown"
    norm: float | None = None
    step: int | None = None
    largest: float | None = None
    mean: float | None = None
    zero_share: float | None = None
    num_nonfinite: int | None = None
    update_ratio: float | None = None
    optimizer: str | None = None
    accepted: str | None = None

    @property
    def key(self):
        """What identifies the row."""
        return self.path + (f"@{self.optimizer}" if self.optimizer else "")

    def to_dict(self):
        """Returns the row as JSON-ready values."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}


@dataclasses.dataclass(frozen=True)
class LossReach:
    """Which trainable variables one term of the loss reaches.

    Args:
        name: Name of the term, unique in its report: the name of the loss,
            followed by the output if several outputs use the same loss,
            e.g. `"mse (head_a)"`; `"add_loss"`; or the regularizer, e.g.
            `"L2"`, for all weights that use it. `"other"` is the rest of
            the loss.
        kind: `"loss"`, `"add_loss"` or `"regularizer"`.
        reaches: For each trainable variable, in the order of `variables` of
            the report, whether this term has a gradient for it.
        norms: For each, the L2 norm of the gradient of this term,
            multiplied by its `loss_weights` but not by a loss scale. `None`
            for a variable without a gradient, 0.0 for a gradient that is
            zero; `None` instead of the tuple if not measured.
        step: Number of updates before the measurement, or `None`.
        note: The line that cuts this term from variables that its value
            depends on, or `None`.
    """

    name: str
    kind: str
    reaches: tuple[bool, ...]
    norms: tuple[float | None, ...] | None = None
    step: int | None = None
    note: str | None = None

    def in_order(self, paths, wanted):
        """Returns the same with its columns in another order.

        Args:
            paths: Paths of the variables in the current order.
            wanted: Paths in the new order; one that is not in `paths` is not
                reached.
        """
        numbers = {path: number for number, path in enumerate(paths)}
        places = [numbers.get(path) for path in wanted]
        norms = self.norms
        if norms is not None:
            norms = tuple(None if n is None else norms[n] for n in places)
        reaches = tuple(n is not None and self.reaches[n] for n in places)
        return dataclasses.replace(self, reaches=reaches, norms=norms)

    def to_dict(self):
        """Returns the row as JSON-ready values."""
        norms = None if self.norms is None else list(self.norms)
        reaches = list(self.reaches)
        known = dataclasses.asdict(self)
        return {**known, "reaches": reaches, "norms": norms}
