"""The rows of a report: plain values, no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class OptimizerHealth:
    """How one optimizer treats its gradients.

    Args:
        name: Its name, made unique with `#2`, `#3`.
        variables: Paths of the variables that it gets gradients for.
        gradient: What the norms of these variables are those of:
            `"batch"`; `"micro-batch"`, where the optimizer adds up the
            gradients of several; `"sum over replicas"`; or `"sum over
            replicas, clipped"`, as each replica clips its own before.
        accumulation_steps: How many micro-batches make one update.
        loss_scale: The factor of the loss now, `None` if there is none.
        num_skipped: Steps that a dynamic loss scale left out because the
            scaled gradient was not finite; `None` if it is not dynamic.
        clipping: Such as `"global_clipnorm=1.0"`, `None` without.
        clipped_share: Share of the steps in which it changed something, 0
            to 1; with `clipvalue` of the recorded steps. `None` where it
            cannot be told: with several micro-batches or replicas.
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
            facts.append(f"an update every {self.accumulation_steps} of them")
        if self.loss_scale is not None:
            facts.append(f"loss scale {self.loss_scale:g}")
        if self.num_skipped:
            facts.append(f"{self.num_skipped} steps skipped by it")
        if self.clipping is not None:
            share = self.clipped_share
            often = "" if share is None else f" bit in {share:.0%} of steps"
            facts.append(f"{self.clipping}{often}")
        return f"{self.name}: {', '.join(facts)}"


@dataclasses.dataclass(frozen=True)
class VariableHealth:
    """The gradient of one trainable variable; a missing one is a row too.

    Args:
        path: Keras path, made unique with `#2`, `#3` where Keras repeats it.
        shape: Shape of the variable.
        dtype: Name of its dtype.
        status: `"ok"`, `"missing"`, `"zero"`, `"nonfinite"`; `"vanishing"`
            or `"exploding"` after a diagnosis of that; `"unknown"` (not
            measured yet).
        norm: L2 norm of the gradient, unscaled, before clipping; `None`
            where there is no gradient or none has been measured. So are
            the figures below.
        step: Step of the measurement, or `None`.
        largest: Largest absolute value of the gradient.
        mean: Mean absolute value.
        zero_share: Share of elements that are exactly zero, 0 to 1.
        num_nonfinite: Number of elements that are NaN or Inf.
        update_ratio: L2 norm of the last update over that of the weight,
            by a sample of at most 4,096 elements of each variable, or of
            64 rows where the gradient is sparse; `None` if not measured.
        optimizer: Which update it is, where a step makes several of this
            variable: the attribute that holds the optimizer, `#2` added for
            its second `apply` in the step. `None` where there is just one.
        accepted: Why a status other than `"ok"` is no break, or `None`.
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
        """What tells the row from all others."""
        return self.path + (f"@{self.optimizer}" if self.optimizer else "")

    def to_dict(self):
        """Returns the row as JSON-ready values."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}


@dataclasses.dataclass(frozen=True)
class LossReach:
    """Which trainable variables one term of the loss reaches.

    Args:
        name: Name of the term, unique in its report: that of the loss, with
            Keras' name of its output where several outputs use the same
            one, e.g. `"mse (head_a)"`; `"add_loss"`; that of a regulariser,
            e.g. `"L2"`, for all weights that have one. `"other"` is what
            the rest of the loss adds.
        kind: `"loss"`, `"add_loss"` or `"regularizer"`.
        reaches: For each trainable variable, in the order of the report's
            `variables`, whether a gradient of this term leads to it.
        norms: For each, the L2 norm of this term's gradient as it enters
            the total: times its `loss_weights`, not times a loss scale.
            `None` where no gradient leads, 0.0 where one leads and is zero;
            `None` in place of the tuple if it has not been measured.
        step: Number of updates before the measurement, or `None`.
        note: Which line keeps this term from variables that its value
            depends on, `None` if none does.
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
            paths: Paths of the variables of the columns as they are.
            wanted: Paths of those to come; one that is not among `paths` is
                not reached.
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
