"""What the diagnosis hands to the rules: plain values, no TensorFlow."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Place:
    """A line of the user's source.

    Args:
        file: File name as Python knows it (a notebook cell has one too).
        line: Line number, from 1.
        function: Name of the function that holds the line.
        snippet: Source lines around `line`; empty if the source is gone.
        snippet_start: Number of the first line of `snippet`.
        is_changed: Whether there is a source, but not that of the code that
            runs: it has changed since, and is not shown.
    """

    file: str | None = None
    line: int | None = None
    function: str | None = None
    snippet: tuple[str, ...] = ()
    snippet_start: int | None = None
    is_changed: bool = False

    @property
    def source(self):
        """The guilty line itself, stripped, or an empty string."""
        if not self.snippet or self.line is None:
            return ""
        return self.snippet[self.line - self.snippet_start].strip()


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the diagnosis found, before a rule has put it into words.

    Args:
        kind: One of `KINDS`.
        place: The user's line, an empty `Place` if there is none.
        op: Type of the guilty TensorFlow op, or `None`.
        layer: Keras path of the layer that the op runs in, or `None`.
        loss: Name of the loss or output that is cut, or `None`.
        variables: Paths of the trainable variables that are hit.
        num_variables: Number of trainable variables in all.
        path: Op types from the loss to the cut, the cut last.
        chain: Op types from the cut toward the loss, the cut first, as long
            as no gradient comes back out of them.
        input_dtypes: Names of the dtypes that go into the guilty op.
        output_dtype: Name of the dtype of what comes out of it and goes on to
            the loss; `None` where nothing does.
        input_ops: Types of the ops that make what goes into the guilty op.
        calls: Names of the library functions between the user's line and
            the op, the outermost first, e.g. `("confusion_matrix", "cast")`.
        cause: Fixed word for a cut that is not an op: `"state"`,
            `"outside_tape"`, `"unused_layer"`, ...; see `rules/`.
        exception: Type name of the exception that the cut raised.
        error: Text of that exception.
        notes: Further facts, one sentence each.
        evidence: Figures behind the finding.
        certainty: `"proved"` or `"suspected"`.
        call: Text of the largest call that begins on the user's line.
        from_start: Whether it has been so since the first record of the
            training; `None` where that is not known.
        step: Training step, or `None`.
        optimizer: Class name of the optimizer, e.g. `"SGD"`, or `None`.
        variable_dtypes: Names of the dtypes of `variables`, each once.
    """

    kind: str
    place: Place = Place()
    op: str | None = None
    layer: str | None = None
    loss: str | None = None
    variables: tuple[str, ...] = ()
    num_variables: int = 0
    path: tuple[str, ...] = ()
    chain: tuple[str, ...] = ()
    input_dtypes: tuple[str, ...] = ()
    output_dtype: str | None = None
    input_ops: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    cause: str | None = None
    exception: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    evidence: dict = dataclasses.field(default_factory=dict)
    certainty: str = "proved"
    call: str = ""
    from_start: bool | None = None
    step: int | None = None
    optimizer: str | None = None
    variable_dtypes: tuple[str, ...] = ()
