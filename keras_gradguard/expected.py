"""Variables that are meant to get no gradient."""

import dataclasses
import re


class Expected:
    """Patterns of variable paths that may go without a gradient.

    Args:
        patterns: Regular expressions, one or several; a path is expected if
            one of them finds something in it (`re.search`).

    Raises:
        ValueError: If one is not a regular expression.
    """

    def __init__(self, patterns=()):
        if isinstance(patterns, str):
            patterns = [patterns]
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def covers(self, path):
        """Returns whether the variable at `path` may go without."""
        return any(pattern.search(path) for pattern in self._patterns)

    def strip(self, findings):
        """Takes expected variables out of findings, and empty findings."""
        kept = []
        for finding in findings:
            paths = tuple(p for p in finding.variables if not self.covers(p))
            if paths:
                kept.append(dataclasses.replace(finding, variables=paths))
        return kept


def _compiled(pattern):
    try:
        return re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(
            "`expect` takes regular expressions of variable paths, such as "
            f'r"pooler/". Received: {pattern!r}, which is not one: {error}'
        ) from error
