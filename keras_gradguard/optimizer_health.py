"""What an optimizer does with the gradients it gets, a plain value."""

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
