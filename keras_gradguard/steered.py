"""Steps 2 and 3: which variables a gradient steers, and which it replaces.

What comes as the gradient of a scale of float8 is the value that it is to
have. It is no slope: it may stay, be small, or grow, and all is well.
"""

import dataclasses


def is_overwritten(variable):
    """Returns whether an optimizer writes the gradient over the variable."""
    return getattr(variable, "overwrite_with_gradient", False)


def steered(values, variables):
    """Returns the values of the variables that are not overwritten.

    Args:
        values: A list, one for each variable.
        variables: The variables.
    """
    pairs = zip(values, variables, strict=True)
    return [value for value, known in pairs if not is_overwritten(known)]


class SteeredFigures:
    """Takes overwritten variables out of records."""

    def __init__(self):
        self._known, self._kept = None, None

    def of(self, figures, named):
        """Returns the `Figures` of variables that are not overwritten.

        Args:
            figures: The `Figures` of a record, or `None`.
            named: Returns a dict of the trainable variables by path.
        """
        if figures is None:
            return None
        if figures.paths != self._known:
            named = named()
            self._known, self._kept = (
                figures.paths,
                [
                    number
                    for number, path in enumerate(figures.paths)
                    if not is_overwritten(named.get(path))
                ],
            )
        if len(self._kept) == len(figures):
            return figures
        columns = {
            field.name: getattr(figures, field.name)[self._kept]
            for field in dataclasses.fields(figures)
            if field.name != "paths"
        }
        paths = tuple(figures.paths[number] for number in self._kept)
        return dataclasses.replace(figures, paths=paths, **columns)
