"""The command line: what the guard knows, without loading TensorFlow."""

import argparse
import sys

from keras_gradguard import rules
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
    table = commands.add_parser("rules", help="list the rules")
    table.set_defaults(command=_rules)
    return parser


def _explain(arguments):
    return catalogue.explain(rules.find(arguments.rule))


def _rules(arguments):
    return catalogue.table()


if __name__ == "__main__":
    sys.exit(main())
