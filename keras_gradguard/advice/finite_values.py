"""Changes that keep an op where its value and gradient are finite."""

import ast

from keras_gradguard.advice.site import SAME, Rewrite
from keras_gradguard.source.reachable import called

# 1 / _EPSILON must be finite in the dtype; 1e-7 is Keras' own epsilon.
_EPSILON = {"float16": "1e-4", "bfloat16": "1e-4"}
_LOGS = ("log", "log2", "log10")
_QUANTILES = ("ndtri", "erfinv", "logit", "quantile")
_GROWING = ("exp", "expm1", "cosh", "sinh")
_ROOTS = ("sqrt", "rsqrt")
_ARCS = ("arccos", "arcsin", "acos", "asin")
_NORMS = ("norm", "euclidean_norm")
_SPREADS = {"std": "var", "reduce_std": "var"}
_POWERS = ("power", "pow")
_DIVISIONS = ("divide", "true_divide", "realdiv")


def finite(site):
    """Proposes a form of the line whose value and gradient are finite."""
    yield from _safe_side(site)
    yield from _stable_form(site)
    for node in site.nodes:
        if _is_quotient(node):
            yield from _division(site, node, node.left, node.right)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            yield from _power(site, node.left)
        elif isinstance(node, ast.Call) and node.args:
            yield from _call(site, node)


def _call(site, call):
    name, first = called(call), call.args[0]
    if name in _LOGS or name in _ROOTS:
        if name in _LOGS and _is_quotient(first):
            yield _shifted_sides(site, first.left, first.right)
        yield from _shifted(site, first)
        yield from _bounded(site, first)
    elif name in _GROWING:
        yield from _bounded_above(site, first)
    elif name in _ARCS:
        yield from _inside(site, first)
    elif name in _NORMS and len(call.args) == 1:
        square = f"{site.ops('square')}({site.source(first)})"
        yield from _root_of(site, call, "sum", square)
    elif name in _SPREADS:
        yield from _root_of(site, call, "var", site.source(first))
    elif name in _POWERS and len(call.args) == 2:
        yield from _power(site, first)
    elif name in _DIVISIONS and len(call.args) == 2:
        yield from _division(site, call, *call.args)


def _epsilon(site):
    kinds = [d for d in site.finding.input_dtypes if d in _EPSILON]
    return _EPSILON[kinds[0]] if kinds else "1e-7"


def _shifted(site, node):
    small = _epsilon(site)
    yield Rewrite(
        "add a small number to the argument",
        (site.replace(node, f"{site.operand(node)} + {small}"),),
        f"the argument is larger by {small}",
    )


def _is_quotient(node):
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)


def _shifted_sides(site, *sides):
    small = _epsilon(site)
    return Rewrite(
        "add a small number to both sides of the quotient",
        tuple(
            site.replace(side, f"({site.operand(side)} + {small})")
            for side in sides
        ),
        f"both sides are larger by {small}",
    )


def _bounded(site, node):
    small = _epsilon(site)
    text = f"{site.ops('maximum')}({site.source(node)}, {small})"
    yield Rewrite(
        "set a lower bound for the argument",
        (site.replace(node, text),),
        f"values below {small} become {small} and pass no gradient",
    )


def _power(site, base):
    """Of the absolute value where it is one of negative numbers."""
    value = site.finding.evidence.get("value")
    first = value[0] if isinstance(value, (list, tuple)) else value
    if isinstance(first, float) and first < 0:
        yield Rewrite(
            "take the power of the absolute value",
            (site.replace(base, f"{site.ops('abs')}({site.source(base)})"),),
            "negative numbers become positive",
        )
    yield from _bounded(site, base)


def _bounded_above(site, node):
    # Its exponential is finite: 6.5e4 is the largest float16, 3e38 else.
    largest = "10.0" if _epsilon(site) == "1e-4" else "80.0"
    text = f"{site.ops('minimum')}({site.source(node)}, {largest})"
    yield Rewrite(
        "set an upper bound for the argument",
        (site.replace(node, text),),
        f"values above {largest} become {largest} and pass no gradient",
    )


def inside_of_one(site):
    """Proposes bounds inside of 0 to 1 for the argument of a function."""
    small = "1e-3" if _epsilon(site) == "1e-4" else "1e-6"
    for call in site.calls(*_QUANTILES):
        if call.args:
            clip, value = site.ops("clip"), site.source(call.args[0])
            text = f"{clip}({value}, {small}, 1.0 - {small})"
            yield Rewrite(
                "clip the argument between 0 and 1",
                (site.replace(call.args[0], text),),
                "values outside these bounds are clipped and pass no gradient",
            )


def _inside(site, node):
    small = "1e-3" if _epsilon(site) == "1e-4" else "1e-6"
    clip = site.ops("clip")
    text = f"{clip}({site.source(node)}, -1.0 + {small}, 1.0 - {small})"
    yield Rewrite(
        "clip the argument between -1 and 1",
        (site.replace(node, text),),
        "values outside these bounds are clipped and pass no gradient",
    )


def _root_of(site, call, reduce, value):
    small = _epsilon(site)
    rest = [f"{k.arg}={site.source(k.value)}" for k in call.keywords]
    rest = [site.source(one) for one in call.args[1:]] + rest
    total = f"{site.ops(reduce)}({', '.join([value, *rest])})"
    yield Rewrite(
        "write out the square root and add a small number under it",
        (site.replace(call, f"{site.ops('sqrt')}({total} + {small})"),),
        f"the value under the root is larger by {small}",
    )


def _division(site, node, left, right):
    below = site.operand(right)
    small = _epsilon(site)
    yield Rewrite(
        "add a small number to the divisor",
        (site.replace(right, f"({below} + {small})"),),
        f"the divisor is larger by {small}",
    )
    yield Rewrite(
        "set a lower bound for the divisor",
        (
            site.replace(
                right, f"{site.ops('maximum')}({site.source(right)}, {small})"
            ),
        ),
        f"divisors below {small} become {small}",
    )
    name = site.ops("divide_no_nan")
    yield Rewrite(
        "use a division that gives 0 where the divisor is 0",
        (
            site.replace(
                node, f"{name}({site.source(left)}, {site.source(right)})"
            ),
        ),
        "a division by 0 gives 0 and passes no gradient",
    )


def _stable_form(site):
    """One function in place of two of which the inner one leaves the range."""
    stable = {
        "softmax": "log_softmax",
        "sigmoid": "log_sigmoid",
    }
    for call in site.calls("log"):
        inner = call.args[0] if call.args else None
        if not isinstance(inner, ast.Call):
            if _is_one_plus_exp(inner):
                value = site.source(inner.right.args[0])
                yield _stable(site, call, f"{site.ops('softplus')}({value})")
            continue
        name = called(inner)
        rest = ", ".join(
            [site.source(one) for one in inner.args]
            + [f"{k.arg}={site.source(k.value)}" for k in inner.keywords]
        )
        if name in stable:
            yield _stable(site, call, f"{site.ops(stable[name])}({rest})")
        if name in ("sum", "reduce_sum") and inner.args:
            first = inner.args[0]
            if isinstance(first, ast.Call) and called(first) == "exp":
                value = site.source(first.args[0])
                rest = [
                    f"{k.arg}={site.source(k.value)}" for k in inner.keywords
                ]
                rest = [site.source(one) for one in inner.args[1:]] + rest
                text = ", ".join([value, *rest])
                yield _stable(site, call, f"{site.ops('logsumexp')}({text})")


def _is_one_plus_exp(node):
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add)
        and isinstance(node.left, ast.Constant)
        and node.left.value == 1
        and isinstance(node.right, ast.Call)
        and called(node.right) == "exp"
    )


def _stable(site, call, text):
    name = text.partition("(")[0]
    return Rewrite(
        f"use `{name}`, which is stable for large numbers",
        (site.replace(call, text),),
        f"{SAME} where it was finite",
    )


def _safe_side(site):
    """A safe argument on the side of a `where` that is not chosen."""
    for choice in site.calls("where"):
        if len(choice.args) != 3:
            continue
        condition = site.source(choice.args[0])
        ones, where = site.ops("ones_like"), site.ops("where")
        for number, side in ((1, choice.args[1]), (2, choice.args[2])):
            for node in ast.walk(side):
                risky = _risky(node)
                if risky is None:
                    continue
                value = site.source(risky)
                both = [value, f"{ones}({value})"]
                if number == 2:
                    both.reverse()
                safe = f"{where}({condition}, {', '.join(both)})"
                yield Rewrite(
                    "make the argument safe where its result is not selected",
                    (site.replace(risky, safe),),
                    SAME,
                )


def _risky(node):
    """The operand of an op that is not finite everywhere."""
    if _is_quotient(node):
        return node.right
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.left
    if isinstance(node, ast.Call) and node.args:
        name = called(node)
        if name in (*_LOGS, *_ROOTS, *_ARCS, *_POWERS):
            return node.args[0]
        if name in _DIVISIONS:
            return node.args[1]
    return None
