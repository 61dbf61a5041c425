"""The shape of a rule: what the diagnosis knows about one cause."""

import dataclasses
from collections.abc import Callable

from keras_gradguard.records.finding import Finding
from keras_gradguard.records.report import Help

# More than two are read by nobody.
MOST_HELP = 2


@dataclasses.dataclass(frozen=True)
class Remedy:
    """One way to correct the code, and when it applies.

    Args:
        text: What to do, imperative, one line, no full stop.
        before: An example of the code as it is, or `None`. Operations are
            spelled as `ops.mean`, after `from keras import ops`;
            `source.dialect` turns them into what the user's file imports.
        after: The same code, corrected.
        when: Decides whether it fits a `Finding`; `None` if it always does.
    """

    text: str
    before: str | None = None
    after: str | None = None
    when: Callable[[Finding], bool] | None = None

    def fits(self, finding):
        """Returns whether this remedy would correct what was found."""
        return self.when is None or self.when(finding)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One cause of a broken gradient: how to tell it and how to correct it.

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
        help: `Remedy`s, the most fitting first. A message shows the first
            two that fit its finding, and none where none fits.
        bad: A module's source that shows the cause. It defines `loss`
            (a loss for a two-layer model) or `model` (a function that
            returns a compiled model); the guilty line ends with
            `# [name]`. `EAGER = True` in it asks for `run_eagerly=True`, and
            `ARGUMENTS` holds arguments of `GradHealthCallback`.
        good: The same module, corrected.
        ops: Op types that this rule explains.
        matches: Decides where the op type alone is not enough; gets the
            `Finding`, returns a bool.
    """

    code: str
    name: str
    kind: str
    message: str
    why: str
    help: tuple[Remedy, ...]
    bad: str
    good: str
    ops: tuple[str, ...] = ()
    matches: Callable[[Finding], bool] | None = None

    def explains(self, finding):
        """Returns whether this rule puts `finding` into words."""
        if self.matches is not None:
            return self.kind == finding.kind and self.matches(finding)
        return self.kind == finding.kind and finding.op in self.ops

    def advice(self, finding, spell=str):
        """Returns the first remedies that fit, as `Help`s.

        Args:
            finding: A `Finding` that this rule explains.
            spell: Turns a snippet into the dialect of the user's file.
        """
        fitting = [item for item in self.help if item.fits(finding)]
        return tuple(
            Help(
                text=spell(item.text),
                before=None if item.before is None else spell(item.before),
                after=None if item.after is None else spell(item.after),
            )
            for item in fitting[:MOST_HELP]
        )
