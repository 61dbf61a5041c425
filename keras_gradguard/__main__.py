"""The command line: what the guard knows and found, and bad steps again."""

import argparse
import os
import sys

from keras_gradguard import rules
from keras_gradguard.errors import UnsupportedBackendError
from keras_gradguard.records.reading import read_report
from keras_gradguard.report import catalogue


def main(argv=None):
    """Runs one command and returns its exit code.

    Args:
        argv: Arguments after the program's name; by default `sys.argv`'s.

    Returns:
        0; 1 for a stored report whose verdict is not `"healthy"`; 2 if the
        command cannot do what it was asked.
    """
    arguments = _parser().parse_args(argv)
    try:
        text, code = arguments.command(arguments)
    except (ValueError, UnsupportedBackendError) as error:
        print(f"keras-gradguard: {error}", file=sys.stderr)
        return 2
    print(text)
    return code


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-gradguard",
        description="Explains what broke a gradient in Keras training.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain", help="say all that is known of one rule"
    )
    explain.add_argument(
        "rule", metavar="CODE", help="code or name, e.g. GG104 or argmax"
    )
    explain.set_defaults(command=_explain)
    replay = commands.add_parser(
        "replay", help="run the bad step of an incident once more"
    )
    replay.add_argument(
        "folder", metavar="FOLDER", help="e.g. logs/incidents/step_12"
    )
    replay.add_argument(
        "--model",
        required=True,
        metavar="FILE.py:FUNCTION",
        help="function that returns the compiled model",
    )
    replay.set_defaults(command=_replay)
    stored = commands.add_parser(
        "report", help="print a stored report, or what a log folder holds"
    )
    stored.add_argument(
        "path",
        metavar="PATH",
        help="file that holds `report.to_json()`, or a `log_dir`",
    )
    stored.set_defaults(command=_report)
    table = commands.add_parser("rules", help="list the rules")
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


def _rules(arguments):
    return catalogue.rule_table(), 0


if __name__ == "__main__":
    sys.exit(main())
