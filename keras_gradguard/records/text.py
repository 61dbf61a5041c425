"""The one renderer for terminals, exceptions and logs."""

import collections
import pathlib
import shlex
import textwrap

from keras_gradguard.records.kinds import (
    BROKEN,
    HEALTHY,
    NOT_CHECKED,
    SCHEMA,
    SEVERITIES,
    STATUSES,
    UNDECIDED,
    WITHOUT_GRADIENT,
)

MOST_VARIABLES = 8
SUSPECTED = (
    "suspected, not proved: this is the most likely cause, but it was not "
    "measured"
)


def printable(text):
    """Returns a text that moves no cursor and hides nothing in a terminal.

    Args:
        text: The text. Names and source lines in it may hold codes of a
            terminal, or such as change the direction in which it is read:
            they are escaped as Python writes them.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or letter in "\n\t"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def headline(diagnosis):
    """Returns the line that makes sense alone."""
    return (
        f"{diagnosis.severity}[{diagnosis.code}] {diagnosis.name}: "
        f"{diagnosis.message}"
    )


def place(diagnosis):
    """Returns `file:line in function`, the file as seen from here."""
    path = path_from_here(diagnosis.file)
    line = "" if diagnosis.line is None else f":{diagnosis.line}"
    function = diagnosis.function
    return f"{path}{line}" + (f" in {function}" if function else "")


def path_from_here(path):
    """Returns a path relative to the present folder if it lies below it.

    Args:
        path: A path as text.
    """
    known, here = pathlib.Path(path), pathlib.Path.cwd()
    if known.is_absolute() and known.is_relative_to(here):
        return str(known.relative_to(here))
    return str(known)


def snippet_lines(diagnosis):
    """Returns the numbered source lines, the guilty one marked with `>`."""
    if diagnosis.file is None or diagnosis.line is None:
        return []
    first = diagnosis.evidence.get("snippet_start") or diagnosis.line
    digits = max(2, len(str(first + len(diagnosis.snippet) - 1)))
    lines = []
    for number, source in enumerate(diagnosis.snippet, first):
        mark = ">" if number == diagnosis.line else " "
        lines.append(f"{mark}{number:>{digits}} | {source}".rstrip())
    return lines


def facts(diagnosis):
    """Returns `(label, text)` pairs: all that is known beside the place."""
    pairs = []
    if diagnosis.path:
        ops = " <- ".join(("loss", *diagnosis.path))
        pairs.append(("path", f"{ops} <-X- (variables)"))
    if diagnosis.variables:
        pairs.append((_label(diagnosis), _lost(diagnosis)))
    pairs.append(("why", diagnosis.why))
    pairs += [("note", note) for note in _notes(diagnosis)]
    pairs.append(("data", _data(diagnosis)))
    return pairs


def _label(diagnosis):
    """What has become of the variables: some still get a gradient."""
    # An addend that trains nothing leaves them to the others.
    is_addend = "addend" in diagnosis.evidence
    is_lost = diagnosis.kind in WITHOUT_GRADIENT and not is_addend
    return "lost" if is_lost else "hits"


def count_lost(diagnosis):
    """Returns `k of n trainable variables`."""
    hit, known = len(diagnosis.variables), diagnosis.num_variables
    if not known:
        return f"{hit} variable{'s' if hit > 1 else ''}, none is trainable"
    return f"{hit} of {known} trainable variables"


def change_lines(item):
    """Returns the lines of a `Help`: `-` what goes, `+` what comes."""
    before = (item.before or "").splitlines()
    after = (item.after or "").splitlines()
    return [f"- {line}" for line in before] + [f"+ {line}" for line in after]


def help_text(item):
    """Returns what a `Help` says, with what was checked."""
    if item.checked is None:
        return item.text
    return f"{item.text} (checked: {item.checked})"


def explain_command(diagnosis):
    """Returns the command that says more."""
    return f"python -m keras_gradguard explain {_quoted(diagnosis.code)}"


def replay_command(folder):
    """Returns the command that replays an incident.

    Args:
        folder: The folder of the incident.
    """
    # A name that begins with a dash is no option.
    folder = f"./{folder}" if folder.startswith("-") else folder
    return (
        f"python -m keras_gradguard replay {_quoted(folder)} --model "
        "FILE.py:FUNCTION"
    )


def _quoted(word):
    """A word of a command to copy: the shell runs nothing that is in it."""
    one_line = word.replace("\n", "\\n").replace("\t", "\\t")
    return shlex.quote(printable(one_line))


def figure(value):
    """Returns a measured value in few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(figure(item) for item in value) + "]"
    return str(value)


def _lost(diagnosis):
    names = _names(_without_model(diagnosis))
    count = count_lost(diagnosis)
    return f"{count}: {names}" if names else count


def _names(paths):
    names = ", ".join(paths[:MOST_VARIABLES])
    hidden = len(paths) - MOST_VARIABLES
    return names + (f", ... (+{hidden} more)" if hidden > 0 else "")


def _without_model(diagnosis):
    """Strips the model's name, which only the full set of paths tells."""
    paths = diagnosis.variables
    first = {path.partition("/")[0] for path in paths}
    is_nested = all(path.count("/") >= 2 for path in paths)
    is_all = len(paths) == diagnosis.num_variables
    if len(first) == 1 and is_nested and is_all:
        return [path.partition("/")[2] for path in paths]
    return paths


def _notes(diagnosis):
    evidence = diagnosis.evidence
    notes = list(evidence.get("notes", ()))
    raised = [
        evidence[key] for key in ("exception", "error") if key in evidence
    ]
    if raised:
        notes.append(": ".join(map(str, raised)))
    # What names no cause has none that could be the most likely one.
    is_cause = diagnosis.line is not None or not diagnosis.name.startswith(
        "unexplained"
    )
    if diagnosis.certainty == "suspected" and is_cause:
        notes.append(SUSPECTED)
    return notes


def _data(diagnosis):
    """`key=value, ...` of what stands nowhere else in the message."""
    values = {
        "schema": None if diagnosis.schema == SCHEMA else diagnosis.schema,
        "kind": diagnosis.kind,
        "certainty": diagnosis.certainty,
        "op": diagnosis.op,
        "layer": diagnosis.layer,
        "loss": diagnosis.loss,
        "step": diagnosis.step,
        "epoch": diagnosis.epoch,
        "function": None if diagnosis.file else diagnosis.function,
    }
    values = {key: value for key, value in values.items() if value is not None}
    said = ("notes", "snippet_start", "exception", "error", "addend")
    for key, value in diagnosis.evidence.items():
        if key not in said:
            values[key] = value
    return ", ".join(f"{key}={figure(value)}" for key, value in values.items())


MOST_LOSSES = 6


def render_matrix(report, most_rows):
    """Returns the lines of a table, one row for each trainable variable.

    Args:
        report: A `Report`.
        most_rows: Rows that are shown, those that no data reaches first.

    Returns:
        A list of lines, empty where the loss is not a sum.
    """
    losses = report.losses
    if len(losses) < 2:
        return []
    rows = sorted(
        range(len(report.variables)),
        key=lambda number: any(
            loss.reaches[number] and loss.kind != "regularizer"
            for loss in losses
        ),
    )
    shown = losses[:MOST_LOSSES]
    table = [("variable", *(_head(loss) for loss in shown))]
    for number in rows[:most_rows]:
        path = report.variables[number].path
        table.append((path, *(_cell(loss, number) for loss in shown)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [_title(losses)]
    for row in table:
        cells = [cell.ljust(n) for cell, n in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    for loss in shown:
        if loss.note is not None:
            lines += _wrap("   = note: ", f"{loss.name}: {loss.note}", 80)
    hidden = (
        (len(losses) - MOST_LOSSES, "losses"),
        (len(rows) - most_rows, "variables"),
    )
    return lines + [f"(+{n} more {what})" for n, what in hidden if n > 0]


def _title(losses):
    step = next((one.step for one in losses if one.norms is not None), None)
    is_measured = any(loss.norms is not None for loss in losses)
    what = "norm of each loss's gradient" if is_measured else "which reaches it"
    when = "" if step is None else f" at step {step}"
    return f"losses: {what}{when}; - where there is no gradient"


def _head(loss):
    is_clear = loss.kind == "loss" or loss.kind in loss.name
    return loss.name if is_clear else f"{loss.name} [{loss.kind}]"


def _cell(loss, number):
    if not loss.reaches[number]:
        return "-"
    return "yes" if loss.norms is None else figure(loss.norms[number])


MOST_ROWS = 20


def render(diagnosis, width=80):
    """Returns the message of one diagnosis, ASCII but for the user's code.

    Args:
        diagnosis: A `Diagnosis`.
        width: Columns to which prose is wrapped; source lines are not cut.
    """
    snippet = snippet_lines(diagnosis)
    margin = " " * (snippet[0].index(" |") if snippet else 3)
    lines = _wrap("", headline(diagnosis), width, hang=6)
    if diagnosis.file is not None:
        lines.append(f"{margin[1:]}--> {place(diagnosis)}")
    if snippet:
        lines += [f"{margin}|", *snippet, f"{margin}|"]
    for label, text in facts(diagnosis):
        lines += _wrap(f"{margin}= {label + ':':<5} ", text, width)
    for item in diagnosis.help:
        lines += _wrap("help: ", help_text(item), width)
        lines += [f"{margin}{line}" for line in change_lines(item)]
    lines.append(f"more: {explain_command(diagnosis)}")
    return printable("\n".join(lines))


def render_report(report, width=80):
    """Returns all diagnoses of a report, a summary and its tables.

    Args:
        report: A `Report`.
        width: Columns to which prose is wrapped.
    """
    parts = [render(diagnosis, width) for diagnosis in report.diagnoses]
    summary = _wrap("report: ", _summary(report), width)
    if report.not_checked is not None:
        summary += _wrap("   = why:  ", report.not_checked, width)
    for item in report.undecided:
        summary += _wrap("   = open: ", str(item), width)
    for optimizer in report.optimizers:
        if len(report.optimizers) > 1 or optimizer.is_special:
            summary += _wrap("optimizer ", str(optimizer), width, hang=3)
    parts.append("\n".join(summary + _table(report.variables)))
    if matrix := render_matrix(report, MOST_ROWS):
        parts.append("\n".join(matrix))
    return printable("\n\n".join(parts))


def _summary(report):
    """The verdict, counts of diagnoses and variables, and when."""
    statuses = [variable.status for variable in report.variables]
    found = ", ".join(_found(report))
    parts = [report.verdict + (f": {found}" if found else "")]
    if found and report.not_checked is not None:
        parts[0] += ", the rest not checked"
    if statuses or report.num_steps:
        number = counted(len(statuses), "trainable variable")
        states = _counts(statuses, STATUSES)
        parts.append(f"{number}: {states}" if states else number)
    if report.num_skipped:
        steps = "" if report.num_steps is None else f" of {report.num_steps}"
        parts.append(f"{report.num_skipped}{steps} steps skipped")
    if report.step is not None:
        parts.append(f"step {report.step}")
    if report.global_norm is not None:
        parts.append(f"global norm {figure(report.global_norm)}")
    return "; ".join(parts)


def _found(report):
    """How many diagnoses there are of each severity, in words."""
    severities = [diagnosis.severity for diagnosis in report.diagnoses]
    return [
        counted(severities.count(word), word)
        for word in SEVERITIES
        if word in severities
    ]


def verdict_title(verdict):
    """Returns the verdict, in words where there is none yet.

    Args:
        verdict: The verdict of a `Report`, or `None`.
    """
    return "no verdict yet" if verdict is None else verdict


def verdict_facts(report, has_ended=True):
    """Returns what stands below the verdict in TensorBoard.

    Args:
        report: A `Report`.
        has_ended: Whether its training is over.

    Returns:
        A list of texts: what was found, why not all was checked, which
        variables are not decided and when they will be, which are accepted,
        and how many steps there were.
    """
    facts = []
    if not has_ended:
        facts.append("the training has not ended, or was killed")
    if report.verdict == BROKEN:
        facts.append(", ".join(_found(report)))
    if report.not_checked is not None:
        facts.append(report.not_checked)
    for item in report.undecided:
        facts.append(f"{item}: {_names(item.variables)}")
    for (status, reason), paths in accepted_rows(report).items():
        number = counted(len(paths), "variable")
        facts.append(f"{number} {status}, accepted ({reason}): {_names(paths)}")
    if report.num_steps is not None:
        steps = counted(report.num_steps, "step")
        if report.num_skipped:
            steps += f", {report.num_skipped:,} of them skipped"
        facts.append(steps)
    return facts


def accepted_rows(report):
    """Returns the keys of the rows that are accepted.

    Args:
        report: A `Report`.

    Returns:
        A dict: by status and reason, the keys of the rows.
    """
    rows = collections.defaultdict(list)
    for row in report.variables:
        if row.accepted is not None:
            rows[row.status, row.accepted].append(row.key)
    return dict(rows)


def closing_line(report, norms=None, num_records=0, where="the report"):
    """Returns the line that is printed when a training ends.

    Args:
        report: A `Report`.
        norms: The smallest and the largest norm over all gradients that was
            recorded, or `None`.
        num_records: How many records were made.
        where: Where to read more.
    """
    facts = []
    if report.verdict == HEALTHY:
        facts.append(counted(len(report.variables), "variable"))
        if report.num_steps is not None:
            facts.append(counted(report.num_steps, "step"))
        facts.append(counted(num_records, "record"))
        if norms is not None:
            facts.append(f"norm {norms[0]:.2g} to {norms[1]:.2g}")
    elif report.verdict == UNDECIDED:
        facts += [str(item) for item in report.undecided]
    elif report.verdict == NOT_CHECKED:
        facts.append(report.not_checked.removesuffix("."))
    else:
        facts += _found(report)
    if report.num_skipped:
        facts.append(f"{counted(report.num_skipped, 'step')} skipped")
    line = f"gradguard: {report.verdict}: {', '.join(facts)}"
    line = line if report.verdict == HEALTHY else f"{line}; see {where}"
    return printable(line)


def counted(number, what):
    """Returns e.g. `"1 step"` or `"2,000 steps"`."""
    return f"{number:,} {what}" + "s" * (number != 1)


def _counts(words, order):
    """`2 missing, 4 ok`."""
    counts = {word: words.count(word) for word in order}
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n)


def _table(variables):
    """One row for each variable, the broken ones first."""
    if not variables:
        return []

    def rank(row):
        is_fine = row.status == "ok" or row.accepted is not None
        return is_fine, row.status == "ok", STATUSES.index(row.status)

    rows = [("variable", "shape", "dtype", "status", "norm", "step")]
    for row in sorted(variables, key=rank)[:MOST_ROWS]:
        norm = "-" if row.norm is None else figure(row.norm)
        step = "-" if row.step is None else str(row.step)
        shape = str(tuple(row.shape))
        status = row.status
        if row.accepted is not None:
            status = f"{status} (accepted)"
        rows.append((row.key, shape, row.dtype, status, norm, step))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(n) for cell, n in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    hidden = len(variables) - MOST_ROWS
    return lines + ([f"(+{hidden} more)"] if hidden > 0 else [])


def _wrap(label, text, width, hang=None):
    """Lines of at most `width` columns, the later ones hung in."""
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=label,
        subsequent_indent=" " * (len(label) if hang is None else hang),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [label.rstrip()]
