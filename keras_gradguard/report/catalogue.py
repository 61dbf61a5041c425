"""The rules as a catalogue: a page for each and a table of all."""

import re
import textwrap

from keras_gradguard.records.text import change_lines
from keras_gradguard.rules import RULES

WIDTH = 80
# What a message says of a finding, where there is none to speak of.
_NOUNS = {
    "op": "an op",
    "layer": "a layer",
    "loss": "a loss",
    "function": "a function",
    "source": "this expression",
}


def rule_page(rule):
    """Returns the page of a rule for the terminal.

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
    text = None
    for item in rule.help:
        lines = "".join(f"    {line}\n" for line in change_lines(item))
        # The same advice for another op or dtype.
        title = "" if item.text == text else _wrap("help: ", item.text)
        text = item.text
        parts.append(title + lines)
    return "\n\n".join(part.rstrip() for part in parts)


def rule_table():
    """Returns one line per rule, sorted by code, for the terminal."""
    rows = [(rule.code, rule.name, summary(rule)) for rule in _by_code()]
    width = max(len(name) for _, name, _ in rows)
    return "\n".join(
        f"{code}  {name:<{width}}  {what}" for code, name, what in rows
    )


def markdown_table(prefix=""):
    """Returns a table of the rules in Markdown, with an anchor for each code.

    Args:
        prefix: Beginning of the codes that are listed, e.g. `"GG1"`.
    """
    lines = ["| code | name | kind | what |", "| --- | --- | --- | --- |"]
    for rule in _by_code():
        if rule.code.startswith(prefix):
            code = f'<a id="{rule.code.lower()}"></a>{rule.code}'
            cells = (code, rule.name, rule.kind, summary(rule))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(rule):
    """Returns the message of a rule as a sentence about no finding.

    The op is the first that the rule explains; a general noun stands for any
    other name, without the backticks that mark a name as code.

    Args:
        rule: A `Rule`.
    """

    def named(match):
        field = match.group(2)
        if field == "op" and rule.ops:
            return match.group(1) + rule.ops[0] + match.group(3)
        return _NOUNS[field]

    return re.sub(r"(`?)\{(\w+)\}(`?)", named, rule.message)


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
