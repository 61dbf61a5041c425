"""Step 5 of 5: what the numbers of a record stand for, in model order."""

import collections
import functools
import hashlib
import json

VERSION = 1


class Schema:
    """The variables of a training, as the rows of its records.

    Args:
        variables: A `VariableHealth` for each row.

    Attributes:
        keys: What tells each row from all others.
        layers: The layer of each row, `""` for a variable outside of one.
    """

    def __init__(self, variables):
        self._variables = tuple(variables)
        self.keys = tuple(variable.key for variable in self._variables)
        self.layers = tuple(layer_of(v.path) for v in self._variables)

    def __len__(self):
        return len(self._variables)

    @functools.cached_property
    def text(self):
        """The JSON that is written: an object with `version` and `variables`.

        Each variable has `path`, `shape` and `dtype` as in `VariableHealth`,
        and `key` and `optimizer` where the path does not tell all; `whole`
        adds the rest.
        """
        rows = []
        for variable in self._variables:
            row = {
                "path": variable.path,
                "shape": list(variable.shape),
                "dtype": variable.dtype,
            }
            if variable.optimizer is not None:
                row |= {"key": variable.key, "optimizer": variable.optimizer}
            rows.append(row)
        known = {"version": VERSION, "variables": rows}
        return json.dumps(known, separators=(",", ":"))

    @functools.cached_property
    def name(self):
        """Eight hexadecimal digits that stand for the set of variables."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]

    @functools.cached_property
    def groups(self):
        """The numbers of the rows of each layer, by layer in model order."""
        groups = collections.defaultdict(list)
        for number, layer in enumerate(self.layers):
            groups[layer or self.keys[number]].append(number)
        return dict(groups)


def layer_of(path):
    """Returns the Keras path of the layer that holds a variable.

    Args:
        path: Its unique path; a `#2` at its end is one of the layer, since
            that is what Keras has named twice.
    """
    name, mark, number = path.partition("#")
    layer = name.rpartition("/")[0]
    return layer + mark + number if layer else ""


def whole(row):
    """Returns a variable of a schema that was read, with all its fields.

    Args:
        row: A dict with `path`, see `Schema.text`.
    """
    path = row["path"]
    known = {"key": path, "layer": layer_of(path), "optimizer": None}
    return {**known, **row}
