"""Measures what the guard costs: `python -m benchmarks`."""

import argparse
import pathlib
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results.json"


def main(arguments=None):
    """Runs the command line.

    Args:
        arguments: Those after the command; by default those of the process.
    """
    options = _parsed(arguments)
    if options.plot:
        from benchmarks import plot, results

        plot.draw(results.read(options.output))
        return
    if options.against:
        from benchmarks import against
        from benchmarks.rows import Options

        how = Options(options.rounds, options.quick)
        rows = _rows(options)
        against.show(
            against.compare(options.against, rows, how), options.against
        )
        return
    found = _measured(options)
    from benchmarks import table

    table.show(found)


def _parsed(arguments):
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.description = "Measures the guard beside bare fit and its peers."
    parser.add_argument(
        "--rows", help="names of rows, such as tiny,dense; by default all"
    )
    parser.add_argument("--rounds", type=int, help="rounds of each row")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="shows that it runs: two short rounds, no processes apart",
    )
    parser.add_argument(
        "--against",
        metavar="REV",
        help="compares the files as they are with a commit, turn by turn",
    )
    parser.add_argument("--output", default=RESULTS, help="the JSON file")
    parser.add_argument(
        "--plot",
        action="store_true",
        help="measures nothing, draws docs/images/cost.png of --output",
    )
    return parser.parse_args(arguments)


def _rows(options):
    from benchmarks.rows import ROWS

    names = options.rows.split(",") if options.rows else list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise SystemExit(
            f"no row is called {', '.join(unknown)}; rows: {', '.join(ROWS)}"
        )
    return names


def _measured(options):
    from benchmarks.results import results_of
    from benchmarks.rows import ROWS, Options

    how = Options(options.rounds, options.quick)
    figures, seconds = [], {}
    for name in _rows(options):
        print(f"{name} ...", file=sys.stderr, flush=True)
        begin = time.perf_counter()
        figures += ROWS[name](how)
        seconds[name] = time.perf_counter() - begin
        # What is measured is kept, also if the run is ended by hand.
        found = results_of(figures, seconds, how)
        found.write(options.output)
    return found


if __name__ == "__main__":
    main()
