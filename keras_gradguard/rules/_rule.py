"""The shape of a rule: what the diagnosis knows about one cause."""

import dataclasses
from collections.abc import Callable

from keras_gradguard.records.finding import Finding
from keras_gradguard.records.report import Help


@dataclasses.dataclass(frozen=True)
class Rule:
    """One cause of a broken gradient: how to tell it and how to mend it.

    A rule gives words and advice. That the gradient is cut, where, and for
    which variables was proved before any rule is asked.

    Args:
        code: `"GG"` and three digits; never re-used.
        name: The pattern that is flagged, in kebab case.
        kind: The `kind` of its diagnoses, one of `records.KINDS`.
        message: One sentence, lower case, no full stop; `{op}`, `{layer}`,
            `{loss}`, `{function}` and `{source}` are filled in from the
            finding.
        why: The general fact, at most two sentences.
        help: Ways to mend it, the safest first, at most two.
        bad: A module's source that shows the cause. It defines `loss`
            (a loss for a two-layer model) or `model` (a function that
            returns a compiled model); the guilty line ends with
            `# [name]`. `EAGER = True` in it asks for `run_eagerly=True`.
        good: The same module, mended.
        ops: Op types that this rule explains.
        matches: Decides where the op type alone is not enough; gets the
            `Finding`, returns a bool.
    """

    code: str
    name: str
    kind: str
    message: str
    why: str
    help: tuple[Help, ...]
    bad: str
    good: str
    ops: tuple[str, ...] = ()
    matches: Callable[[Finding], bool] | None = None

    def explains(self, finding):
        """Returns whether this rule puts `finding` into words."""
        if self.matches is not None:
            return self.kind == finding.kind and self.matches(finding)
        return self.kind == finding.kind and finding.op in self.ops
