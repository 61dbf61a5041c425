"""The command line: explain rules, print reports, replay NaN steps."""

import argparse
import os
import sys

from keras_gradguard import rules
from keras_gradguard.advice.fix import (
    file_patches,
    fixed,
    unified_diff,
    write_fixed,
)
from keras_gradguard.errors import (
    STRICT,
    UnsupportedBackendError,
    fault_words,
)
from keras_gradguard.records.reading import read_report
from keras_gradguard.records.text import printable
from keras_gradguard.report import catalogue


def main(argv=None):
    """Runs one command and returns its exit code.

    Args:
        argv: Arguments after the name of the program; by default those of
            `sys.argv`.

    Returns:
        0; 1 for a stored report whose verdict is not `"healthy"`; 2 if the
        command failed.
    """
    try:
        arguments = _parser().parse_args(argv)
        text, code = arguments.command(arguments)
    except (ValueError, UnsupportedBackendError) as error:
        _say(error)
        return 2
    except Exception as error:
        if os.environ.get(STRICT) == "1":
            raise
        _say(fault_words(error))
        return 2
    print(printable(text))
    return code


# A stored name may be of any length.
_MOST_LETTERS = 1_000


def _say(error):
    text = f"keras-gradguard: {error}"
    if len(text) > _MOST_LETTERS:
        text = text[:_MOST_LETTERS] + "..."
    print(printable(text), file=sys.stderr)


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-gradguard",
        description="Explains broken gradients in Keras training.",
        epilog="Example: keras-gradguard explain argmax",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain", help="explain a rule, with a bad and a good example"
    )
    explain.add_argument(
        "rule", metavar="CODE", help="its code or name, e.g. GG104 or argmax"
    )
    explain.set_defaults(command=_explain)
    replay = commands.add_parser(
        "replay", help="replay a recorded NaN or Inf step"
    )
    replay.add_argument(
        "folder",
        metavar="FOLDER",
        help="the incident folder, e.g. logs/incidents/step_12",
    )
    replay.add_argument(
        "--model",
        required=True,
        metavar="FILE.py:FUNCTION",
        help=(
            "function without arguments that returns the compiled model; "
            "FILE.py is imported, so guard its training with "
            "`if __name__ == '__main__':`"
        ),
    )
    replay.set_defaults(command=_replay)
    stored = commands.add_parser(
        "report",
        help="print a stored report, or the findings in a log folder",
        epilog="Exit code 1: the verdict of the stored report is not healthy.",
    )
    stored.add_argument(
        "path",
        metavar="PATH",
        help="file written from `report.to_json()`, or a `log_dir`",
    )
    stored.set_defaults(command=_report)
    fix = commands.add_parser(
        "fix", help="print the checked patches of a stored report as a diff"
    )
    fix.add_argument(
        "path", metavar="PATH", help="file written from `report.to_json()`"
    )
    fix.add_argument(
        "--write", action="store_true", help="apply the patches to the files"
    )
    fix.set_defaults(command=_fix)
    table = commands.add_parser("rules", help="list all rules")
    table.set_defaults(command=_rules)
    return parser


def _explain(arguments):
    return catalogue.rule_page(rules.find(arguments.rule)), 0


def _replay(arguments):
    # The one command that needs Keras, on TensorFlow.
    from keras_gradguard import backend

    backend.require_supported()
    from keras_gradguard.replay import replay_incident

    report = replay_incident(arguments.folder, arguments.model)
    return "\n\n".join(str(diagnosis) for diagnosis in report.diagnoses), 0


def _report(arguments):
    if os.path.isdir(arguments.path):
        # The one command that needs TensorBoard.
        from keras_gradguard.report.cards import logged_cards

        return logged_cards(arguments.path), 0
    report = read_report(arguments.path)
    return str(report), 0 if report.ok else 1


def _fix(arguments):
    report = read_report(arguments.path)
    patches = file_patches(report)
    if not patches:
        return "no checked patch in this report", 0
    diffs, code = [], 0
    for file, found in patches.items():
        try:
            old, new = fixed(file, found)
            if arguments.write:
                write_fixed(file, new)
        except ValueError as error:
            _say(error)
            code = 2
        else:
            diffs.append(unified_diff(file, old, new))
    return "".join(diffs).rstrip("\n"), code


def _rules(arguments):
    return catalogue.rule_table(), 0


if __name__ == "__main__":
    sys.exit(main())
