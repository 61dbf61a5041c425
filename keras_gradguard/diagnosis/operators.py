"""Step 4: which Python operator may have called a function of Keras."""

import ast
import functools
import re

import keras

# The language's own names; those of what is called are Keras'.
_METHODS = {
    ast.Add: ("add",),
    ast.Sub: ("sub",),
    ast.Mult: ("mul",),
    ast.Div: ("truediv",),
    ast.FloorDiv: ("floordiv",),
    ast.Mod: ("mod",),
    ast.Pow: ("pow",),
    ast.MatMult: ("matmul",),
    ast.BitAnd: ("and",),
    ast.BitOr: ("or",),
    ast.BitXor: ("xor",),
    ast.USub: ("neg",),
    ast.Invert: ("invert",),
    ast.Eq: ("eq",),
    ast.NotEq: ("ne",),
    # Python asks the other side if the one it asks first does not know.
    ast.Gt: ("gt", "lt"),
    ast.Lt: ("lt", "gt"),
    ast.GtE: ("ge", "le"),
    ast.LtE: ("le", "ge"),
}
_BUILTINS = {"abs": ("abs",), "round": ("round",)}


def may_call(node, names):
    """Returns whether an operator may call one of some functions of Keras.

    Args:
        node: An `ast` node.
        names: Names of functions, such as `"greater_equal"`.
    """
    kinds = [getattr(node, "op", None), *getattr(node, "ops", ())]
    methods = [m for kind in kinds for m in _METHODS.get(type(kind), ())]
    if isinstance(node, ast.Call):
        methods += _BUILTINS.get(getattr(node.func, "id", None), ())
    return any(not _called_by(method).isdisjoint(names) for method in methods)


@functools.cache
def _called_by(method):
    """Names of what a `KerasTensor` calls for one operator."""
    function = getattr(keras.KerasTensor, f"__{method}__", None)
    code = getattr(function, "__code__", None)
    classes = () if code is None else code.co_names
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in classes}
