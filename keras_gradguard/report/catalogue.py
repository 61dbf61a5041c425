"""The rules as a catalogue: a page for each and a table of all."""

import textwrap

from keras_gradguard.records.text import change_lines
from keras_gradguard.rules import RULES

WIDTH = 80


def rule_page(rule):
    """Returns all that is known of a rule, as a page for the terminal.

    Args:
        rule: A `Rule`.
    """
    parts = [f"{rule.code} {rule.name} ({rule.kind})"]
    parts.append(_wrap("what: ", summary(rule)) + _wrap("why:  ", rule.why))
    if rule.ops:
        parts[-1] += _wrap("ops:  ", ", ".join(rule.ops))
    for title, source in (("bad", rule.bad), ("good", rule.good)):
        if source:
            parts.append(f"{title}:\n{textwrap.indent(source, '    ')}")
    for item in rule.help:
        lines = "".join(f"    {line}\n" for line in change_lines(item))
        parts.append(_wrap("help: ", item.text) + lines)
    return "\n\n".join(part.rstrip() for part in parts)


def rule_table():
    """Returns one line for each rule, by code, for the terminal."""
    rows = [(rule.code, rule.name, summary(rule)) for rule in _by_code()]
    width = max(len(name) for _, name, _ in rows)
    return "\n".join(
        f"{code}  {name:<{width}}  {what}" for code, name, what in rows
    )


def markdown_table():
    """Returns the README's table of codes."""
    lines = ["| code | name | kind | what |", "| --- | --- | --- | --- |"]
    for rule in _by_code():
        what = summary(rule)
        lines.append(f"| {rule.code} | {rule.name} | {rule.kind} | {what} |")
    return "\n".join(lines) + "\n"


def summary(rule):
    """Returns the rule's message with its first op as the example.

    Args:
        rule: A `Rule`.
    """
    op = rule.ops[0] if rule.ops else "an op"
    names = dict.fromkeys(("layer", "loss", "function", "source"), "...")
    return rule.message.format(op=op, **names)


def _by_code():
    return sorted(RULES, key=lambda rule: rule.code)


def _wrap(label, text):
    return (
        textwrap.fill(
            text,
            WIDTH,
            initial_indent=label,
            subsequent_indent=" " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )
