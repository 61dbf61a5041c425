"""Two commits measured turn by turn: `python -m benchmarks --against REV`."""

import io
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile

from rich.console import Console
from rich.table import Table

from benchmarks import results

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOW = "now"
TURNS = 3


def compare(revision, rows, options):
    """Returns the figures of a revision and of the files as they are.

    The benchmarks are those of now; the package is that of each. They take
    turns, each in a process of its own.

    Args:
        revision: What `git archive` takes, e.g. a commit.
        rows: Names of the rows to measure.
        options: The `Options`; `rounds` are those of each turn.

    Returns:
        `{(row, what): ([value of each turn], [the same of now], unit)}`.

    Raises:
        SystemExit: If there is no such revision.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        trees = [
            _tree(pathlib.Path(folder) / name, name) for name in (revision, NOW)
        ]
        for turn in range(1 if options.quick else TURNS):
            for number in (0, 1) if turn % 2 == 0 else (1, 0):
                for figure in _measured(trees[number], rows, options):
                    if figure.value is not None:
                        key = figure.row, figure.what
                        known = found.setdefault(key, ([], [], figure.unit))
                        known[number].append(figure.value)
    return found


def _tree(folder, revision):
    """A folder with the package of a revision, and the benchmarks of now."""
    folder.mkdir(parents=True)
    if revision == NOW:
        shutil.copytree(ROOT / "keras_gradguard", folder / "keras_gradguard")
    else:
        command = ["git", "archive", revision, "keras_gradguard"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True)
        if done.returncode:
            words = done.stderr.decode().strip()
            raise SystemExit(f"no package in revision {revision!r}: {words}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")
    return folder


def _measured(tree, rows, options):
    output = tree / "found.json"
    command = [sys.executable, "-m", "benchmarks", "--rows", ",".join(rows)]
    command += ["--output", str(output)]
    if options.rounds:
        command += ["--rounds", str(options.rounds)]
    if options.quick:
        command.append("--quick")
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return results.read(output).figures


def show(found, revision, file=None):
    """Prints what `compare` returned.

    Args:
        found: The figures.
        revision: Name of the revision.
        file: Where to; by default the standard output.
    """
    table = Table(caption=f"ratio: {NOW} / {revision}, turn by turn")
    for name in ("row", "what", revision, NOW, "ratio", "spread"):
        table.add_column(name)
    for (row, what), (old, new, unit) in found.items():
        pairs = list(zip(old, new, strict=False))
        ratios = [b / a for a, b in pairs if a]
        ratio, spread = "", ""
        if ratios:
            ratio = f"{statistics.median(ratios):.2f}"
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        table.add_row(row, what, *_texts(old, new, unit), ratio, spread)
    Console(file=file, width=120 if file else None).print(table)


def _texts(old, new, unit):
    for values in (old, new):
        text = "-" if not values else f"{statistics.median(values):.3g} {unit}"
        yield text
