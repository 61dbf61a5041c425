"""The command line: what the guard knows and found, and bad steps again."""

import argparse
import os
import sys

from keras_gradguard import rules
from keras_gradguard.records.reading import read_report
from keras_gradguard.report import catalogue


def main(argv=None):
    """Runs one command and returns its exit code.

    Args:
        argv: Arguments after the program's name; by default `sys.argv`'s.
    """
    arguments = _parser().parse_args(argv)
    try:
        print(arguments.command(arguments))
    except ValueError as error:
        print(f"keras-gradguard: {error}", file=sys.stderr)
        return 2
    return 0


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
    return catalogue.rule_page(rules.find(arguments.rule))


def _replay(arguments):
    # The one command that needs TensorFlow.
    from keras_gradguard.replay import replay_incident

    report = replay_incident(arguments.folder, arguments.model)
    return "\n\n".join(str(diagnosis) for diagnosis in report.diagnoses)


def _report(arguments):
    if os.path.isdir(arguments.path):
        # The one command that needs TensorBoard.
        from keras_gradguard.report.cards import logged_cards

        return logged_cards(arguments.path)
    return str(read_report(arguments.path))


def _rules(arguments):
    return catalogue.rule_table()


if __name__ == "__main__":
    sys.exit(main())
