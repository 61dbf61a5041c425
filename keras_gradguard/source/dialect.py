"""Which names a file uses for tensor operations: keras.ops, tf or K."""

import ast
import re

from keras_gradguard.source.syntax import tree_of

# What `keras.ops` calls it: what TensorFlow calls it, with the same
# arguments in the same order and under the same names.
TENSORFLOW = {
    "abs": "abs",
    "add": "add",
    "angle": "math.angle",
    "arange": "range",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "argmax": "argmax",
    "argmin": "argmin",
    "argsort": "argsort",
    "bincount": "math.bincount",
    "cast": "cast",
    "ceil": "math.ceil",
    "clip": "clip_by_value",
    "concatenate": "concat",
    "convert_to_tensor": "convert_to_tensor",
    "cos": "cos",
    "cosh": "cosh",
    "count_nonzero": "math.count_nonzero",
    "cumsum": "cumsum",
    "custom_gradient": "custom_gradient",
    "divide": "divide",
    "divide_no_nan": "math.divide_no_nan",
    "equal": "equal",
    "erf": "math.erf",
    "exp": "exp",
    "expand_dims": "expand_dims",
    "expm1": "math.expm1",
    "floor": "floor",
    "floor_divide": "math.floordiv",
    "gelu": "nn.gelu",
    "greater": "greater",
    "greater_equal": "greater_equal",
    "in_top_k": "math.in_top_k",
    "isfinite": "math.is_finite",
    "leaky_relu": "nn.leaky_relu",
    "less": "less",
    "less_equal": "less_equal",
    "linspace": "linspace",
    "log": "math.log",
    "log1p": "math.log1p",
    "log_sigmoid": "math.log_sigmoid",
    "log_softmax": "nn.log_softmax",
    "logical_and": "logical_and",
    "logical_not": "logical_not",
    "logical_or": "logical_or",
    "logsumexp": "reduce_logsumexp",
    "map": "map_fn",
    "matmul": "matmul",
    "max": "reduce_max",
    "maximum": "maximum",
    "mean": "reduce_mean",
    "min": "reduce_min",
    "minimum": "minimum",
    "multiply": "multiply",
    "norm": "norm",
    "not_equal": "not_equal",
    "one_hot": "one_hot",
    "ones_like": "ones_like",
    "pad": "pad",
    "power": "pow",
    "prod": "reduce_prod",
    "reciprocal": "math.reciprocal",
    "relu": "nn.relu",
    "reshape": "reshape",
    "round": "round",
    "rsqrt": "math.rsqrt",
    "scatter_update": "tensor_scatter_nd_update",
    "searchsorted": "searchsorted",
    "segment_sum": "math.unsorted_segment_sum",
    "shape": "shape",
    "sigmoid": "sigmoid",
    "sign": "sign",
    "sin": "sin",
    "sinh": "sinh",
    "slice": "slice",
    "softmax": "nn.softmax",
    "softplus": "nn.softplus",
    "sort": "sort",
    "sqrt": "sqrt",
    "square": "square",
    "squeeze": "squeeze",
    "stack": "stack",
    "std": "math.reduce_std",
    "stop_gradient": "stop_gradient",
    "subtract": "subtract",
    "sum": "reduce_sum",
    "take": "gather",
    "take_along_axis": "experimental.numpy.take_along_axis",
    "tanh": "tanh",
    "tensordot": "tensordot",
    "tile": "tile",
    "top_k": "math.top_k",
    "transpose": "transpose",
    "var": "math.reduce_variance",
    "vectorized_map": "vectorized_map",
    "where": "where",
    "zeros_like": "zeros_like",
}
# Keras' old backend functions, which `tf.keras.backend` still has.
BACKEND = {
    "abs": "abs",
    "argmax": "argmax",
    "cast": "cast",
    "clip": "clip",
    "equal": "equal",
    "exp": "exp",
    "greater": "greater",
    "greater_equal": "greater_equal",
    "less": "less",
    "less_equal": "less_equal",
    "log": "log",
    "max": "max",
    "maximum": "maximum",
    "mean": "mean",
    "min": "min",
    "minimum": "minimum",
    "one_hot": "one_hot",
    "relu": "relu",
    "round": "round",
    "sigmoid": "sigmoid",
    "sign": "sign",
    "softmax": "softmax",
    "softplus": "softplus",
    "sqrt": "sqrt",
    "square": "square",
    "stop_gradient": "stop_gradient",
    "sum": "sum",
    "tanh": "tanh",
}
_OPERATION = re.compile(r"(?<![\w.])ops\.(\w+)")


class Dialect:
    """How a line spells tensor operations.

    Args:
        names: Module path of what its file imports to the name it has
            there, e.g. `{"keras.ops": "ops", "tensorflow": "tf"}`.
        code: The line and those around it, which tell which of several is
            in use there.
    """

    def __init__(self, names, code=()):
        self._names = names
        used = [
            path
            for line in code
            for path in ("keras.ops", "tensorflow", "keras", "keras.backend")
            if re.search(rf"(?<![\w.]){names.get(path, '$.')}\.\w", line)
        ]
        self._first = used[0] if used else None

    @classmethod
    def at(cls, place):
        """Reads it from the line and the imports of its file.

        Args:
            place: The user's `Place`.
        """
        names = dict(_imports(tree_of(place.file)))
        return cls(names, (place.source, *place.snippet))

    def operation(self, name):
        """Returns how the line would write an operation of `keras.ops`.

        Args:
            name: e.g. `"mean"`.

        Returns:
            e.g. `"ops.mean"`, `"keras.ops.mean"`, `"tf.reduce_mean"` or
            `"K.mean"`.
        """
        names = self._names
        for path in (self._first, "keras.ops", "keras", "tensorflow"):
            if path not in names:
                continue
            if path == "keras.ops":
                return f"{names[path]}.{name}"
            if path == "keras":
                return f"{names[path]}.ops.{name}"
            known = TENSORFLOW if path == "tensorflow" else BACKEND
            if name in known:
                return f"{names[path]}.{known[name]}"
        return f"keras.ops.{name}"

    def spell(self, snippet):
        """Returns a snippet with its operations in this dialect.

        Args:
            snippet: Code or prose with operations as `ops.mean`.
        """
        return _OPERATION.sub(lambda m: self.operation(m.group(1)), snippet)


def _imports(tree):
    """Yields the path of each module of interest and its name in the file."""
    known = ("keras", "keras.ops", "keras.backend", "tensorflow")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                name = item.name.partition(".")[0]
                path = name if item.asname is None else item.name
                if _canonical(path) in known:
                    yield _canonical(path), item.asname or name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for item in node.names:
                path = _canonical(f"{node.module}.{item.name}")
                if path in known:
                    yield path, item.asname or item.name


def _canonical(path):
    """`tensorflow.keras` is `keras`."""
    return path.removeprefix("tensorflow.") if "keras" in path else path
