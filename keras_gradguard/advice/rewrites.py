"""For each cause the changes of a line that may correct it, the best first.

A rewrite is a proposal: `advice.trial` runs it before anybody sees it. So one
that does not fit the code, or does not help, costs a trial and no trust.
"""

import ast

from keras_gradguard.advice.finite_values import finite, inside_of_one
from keras_gradguard.advice.python_code import (
    call_model,
    keep_result,
    keep_tensor,
    leave_numpy,
    on_tensors,
    without_wrapper,
)
from keras_gradguard.advice.site import SAME, Rewrite
from keras_gradguard.source.reachable import called

LEAK = "negative inputs pass on a fifth of their value"
_SOFT = "a soft value instead of a hard one: the loss differs"
_COMPARED = {
    **dict.fromkeys(("greater", "greater_equal"), (0, 1)),
    **dict.fromkeys(("less", "less_equal"), (1, 0)),
}
_ORDERS = {
    **dict.fromkeys((ast.Gt, ast.GtE), (0, 1)),
    **dict.fromkeys((ast.Lt, ast.LtE), (1, 0)),
}
_ZEROS, _ONES = ("0", "0.0", "0."), ("1", "1.0", "1.")
_ROUNDING = ("round", "rint", "floor", "ceil", "trunc")


def rewrites(site, code):
    """Yields the `Rewrite`s for a line.

    Args:
        site: The `Site`.
        code: Code of the rule that explains its finding.
    """
    for propose in _PROPOSALS.get(code, ()):
        yield from propose(site)


def soften_comparisons(site):
    """A sigmoid of the difference in place of a comparison."""
    edits = _softened(site, site.nodes)
    for edit in edits:
        yield Rewrite("use a sigmoid instead of the comparison", (edit,), _SOFT)
    text = "use sigmoids instead of the comparisons"
    if len(edits) > 1:
        yield Rewrite(text, edits, _SOFT)
    everywhere = _softened(site, site.around) + _blended(site)
    # Comparisons of other lines alone are another finding's.
    if edits and len(everywhere) > len(edits):
        yield Rewrite(text, everywhere, _SOFT)


def _softened(site, nodes):
    """The edits that make each comparison and what combines them soft."""
    return tuple(
        site.replace(*_with_holder(site, node, soft))
        for node in nodes
        if (soft := _soft(site, node)) is not None
    )


def _blended(site):
    """The choices by a comparison that has a name, as sums of both sides."""
    edits = []
    for call in site.calls("where", nodes=site.around):
        if len(call.args) == 3 and isinstance(call.args[0], ast.Name):
            made = site.assigned(call.args[0].id)
            if len(made) == 1 and _soft(site, made[0]) is not None:
                name, one, other = map(site.operand, call.args)
                edits.append(site.replace(call, _mixed(name, one, other)))
    return tuple(edits)


def _mixed(share, one, other):
    """The text of one value where a share is 1, of another where it is 0."""
    if other in _ZEROS:
        return share if one in _ONES else f"({share} * {one})"
    return f"({other} + {share} * ({one} - {other}))"


def _soft(site, node):
    """The text of a comparison between 0 and 1, `None` for all else."""
    if isinstance(node, ast.Call) and node.args:
        values = [_soft(site, one) or site.operand(one) for one in node.args]
        name = called(node)
        if name == "logical_not":
            return f"(1.0 - {values[0]})"
        if name in ("logical_and", "logical_or") and len(values) == 2:
            one, other = values
            if name == "logical_and":
                return f"({one} * {other})"
            return f"({one} + {other} - {one} * {other})"
    sides = _sides(node)
    if sides is None:
        return None
    larger, smaller, is_equal = sides
    gap = f"{site.operand(larger)} - {site.operand(smaller)}"
    if site.source(smaller) in _ZEROS:
        gap = site.operand(larger)
    elif site.source(larger) in _ZEROS:
        gap = f"-{site.operand(smaller)}"
    if is_equal is None:
        return f"{site.ops('sigmoid')}(10.0 * ({gap}))"
    soft = f"{site.ops('exp')}(-10.0 * {site.ops('square')}({gap}))"
    return soft if is_equal else f"(1.0 - {soft})"


def _with_holder(site, node, soft):
    """`(node, text)`, of the call around a comparison where it goes as well."""
    holder = site.parent(node)
    if not (isinstance(holder, ast.Call) and node in holder.args[:1]):
        return node, soft
    name = called(holder)
    if name == "cast":
        return holder, soft
    if name == "where" and len(holder.args) == 3:
        one, other = map(site.operand, holder.args[1:])
        return holder, _mixed(soft, one, other)
    if name == "count_nonzero":
        rest = [site.source(one) for one in holder.args[1:]]
        rest += [
            f"{k.arg}={site.source(k.value)}"
            for k in holder.keywords
            if k.arg != "dtype"
        ]
        return holder, f"{site.ops('sum')}({', '.join([soft, *rest])})"
    return node, soft


def _sides(node):
    """`(larger, smaller, is_equal)` of a comparison, `None` for all else."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        both, kind = (node.left, node.comparators[0]), type(node.ops[0])
        if kind in _ORDERS:
            first, second = _ORDERS[kind]
            return both[first], both[second], None
        if kind in (ast.Eq, ast.NotEq):
            return *both, kind is ast.Eq
    if isinstance(node, ast.Call) and len(node.args) == 2:
        name = called(node)
        if name in _COMPARED:
            first, second = _COMPARED[name]
            return node.args[first], node.args[second], None
        if name in ("equal", "not_equal"):
            return *node.args, name == "equal"
    return None


def match_by_probability(site):
    """The probability of the label in place of a match of two classes."""
    for node in site.around:
        sides = _sides(node)
        if sides is None or sides[2] is not True:
            continue
        both = [_resolved(site, side) for side in sides[:2]]
        found = [one for one in both if _is_argmax(one)]
        if not any(map(site.covers, (node, *found))):
            # A match that the finding has no part in.
            continue
        if len(found) == 2:
            # A loss takes the labels first and the prediction second.
            found.sort(key=lambda one: _is_of(site.parameters[1:2], one))
            if not _is_of(site.parameters[1:2], found[1]):
                continue
            (labels, axis), (scores, _) = (_scores(site, one) for one in found)
        elif found:
            scores, axis = _scores(site, found[0])
            labels = sides[0] if both[1] is found[0] else sides[1]
            whole = f'{site.ops("cast")}({site.source(labels)}, "int32")'
            labels = f"{site.ops('one_hot')}({whole}, {scores}.shape[-1])"
        else:
            continue
        share = f"{site.ops('softmax')}({scores}, axis={axis})"
        text = f"{site.ops('sum')}({labels} * {share}, axis={axis})"
        holder = site.parent(node)
        if isinstance(holder, ast.Call) and called(holder) == "cast":
            node = holder
        yield Rewrite(
            "use the probability of the label instead of a match of classes",
            (site.replace(node, text),),
            _SOFT,
        )


def _is_of(names, node):
    return any(getattr(n, "id", None) in names for n in ast.walk(node))


def _resolved(site, node):
    """What a node is, behind casts and a name that is assigned once."""
    for _ in range(4):
        if isinstance(node, ast.Call) and called(node) == "cast":
            node = node.args[0]
        elif isinstance(node, ast.Name):
            made = site.assigned(node.id)
            if len(made) != 1:
                return node
            node = made[0]
    return node


def _is_argmax(node):
    return isinstance(node, ast.Call) and called(node) == "argmax"


def _scores(site, call):
    axis = [k.value for k in call.keywords if k.arg == "axis"] + call.args[1:2]
    axis = site.source(axis[0]) if axis else "-1"
    return site.operand(call.args[0]), axis


def soften_argmax(site):
    """A softmax in place of a one-hot code, an expected index for an index."""
    for call in site.calls("argmax"):
        if not call.args:
            continue
        scores, axis = _scores(site, call)
        share = f"{site.ops('softmax')}(10.0 * {scores}, axis={axis})"
        holder = site.parent(call)
        if isinstance(holder, ast.Call) and called(holder) == "one_hot":
            yield Rewrite(
                "use a softmax instead of the one-hot code",
                (site.replace(holder, share),),
                _SOFT,
            )
        size = f"{site.ops('shape')}({scores})[{axis}]"
        indices = f'{site.ops("cast")}({site.ops("arange")}({size}), "float32")'
        text = f"{site.ops('sum')}({share} * {indices}, axis={axis})"
        if isinstance(holder, ast.Call) and called(holder) == "cast":
            call = holder
        yield Rewrite(
            "use the expected index under a softmax",
            (site.replace(call, text),),
            _SOFT,
        )


def pass_rounding(site):
    """The value without rounding, or a straight-through estimator."""
    plain, through = [], []
    for call in site.calls(*_ROUNDING):
        if len(call.args) < 1:
            continue
        value = site.operand(call.args[0])
        stopped = f"{site.ops('stop_gradient')}({site.source(call)} - {value})"
        plain.append(
            Rewrite(
                "leave the value as it is; rounding is for metrics",
                (site.replace(call, value),),
                "the value is no longer rounded",
            )
        )
        through.append(
            Rewrite(
                "use a straight-through estimator",
                (site.replace(call, f"({value} + {stopped})"),),
                f"{SAME}; the gradient is that of the input",
            )
        )
    for node in site.nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
            left, right = site.operand(node.left), site.operand(node.right)
            plain.append(
                Rewrite(
                    "divide without rounding",
                    (site.replace(node, f"{left} / {right}"),),
                    "the value is no longer rounded",
                )
            )
    in_layer = site.finding.layer is not None
    yield from through + plain if in_layer else plain + through


def keep_float(site):
    """The value that was cast to whole numbers."""
    for call in site.calls("cast"):
        if call.args:
            yield Rewrite(
                "keep the floating-point value",
                (site.replace(call, site.operand(call.args[0])),),
                "the value is no longer a whole number",
            )
    for call in site.calls("astype"):
        yield Rewrite(
            "keep the floating-point value",
            (site.replace(call, site.operand(call.func.value)),),
            "the value is no longer a whole number",
        )


def soften_sign(site):
    """A hyperbolic tangent in place of a sign."""
    for call in site.calls("sign"):
        if call.args:
            value = site.operand(call.args[0])
            yield Rewrite(
                "use tanh instead of the sign",
                (site.replace(call, f"{site.ops('tanh')}(10.0 * {value})"),),
                _SOFT,
            )


def pass_gradient(site):
    """What was stopped, without the stop."""
    for call in site.calls("stop_gradient"):
        if call.args:
            yield Rewrite(
                "let the gradient pass here",
                (site.replace(call, site.operand(call.args[0])),),
                f"{SAME}; check that the stop was not meant",
            )


def without_clip(site):
    """A sigmoid between the bounds, or the value without them."""
    for call in site.calls("clip", "clip_by_value"):
        if len(call.args) == 3:
            value = site.source(call.args[0])
            low, high = map(site.operand, call.args[1:])
            soft = f"{low} + ({high} - {low}) * {site.ops('sigmoid')}({value})"
            yield Rewrite(
                "map the value into the range with a sigmoid",
                (site.replace(call, f"({soft})"),),
                "the value moves smoothly between the bounds, so it differs",
            )
        if call.args:
            yield Rewrite(
                "leave the value unbounded",
                (site.replace(call, site.operand(call.args[0])),),
                "the value may leave the bounds",
            )


def other_axis(site):
    """A softmax over another axis than one of length 1."""
    for call in site.calls("softmax", "log_softmax"):
        given = [k.value for k in call.keywords if k.arg == "axis"]
        given = given or call.args[1:2]
        # Never over the rows of a batch: -2 may be their axis.
        for axis in ("-1", "1"):
            if given:
                edit = site.replace(given[0], axis)
            elif call.args:
                inside = f"{site.source(call.args[0])}, axis={axis}"
                edit = site.replace(call.args[0], inside)
            else:
                continue
            if not given or site.source(given[0]) != axis:
                yield Rewrite(
                    f"take the softmax over axis {axis}",
                    (edit,),
                    "the shares add up to 1 over that axis",
                )


def sigmoid_of_one_unit(site):
    """A sigmoid in place of a softmax over one unit."""
    for call in site.calls("softmax"):
        if call.args:
            text = f"{site.ops('sigmoid')}({site.source(call.args[0])})"
            yield Rewrite(
                "use a sigmoid for one unit",
                (site.replace(call, text),),
                "the value is a probability instead of always 1",
            )


def leak(site):
    """A slope for negative inputs in place of none."""
    # A unit that was active at first would die once more.
    if site.finding.from_start is not False:
        for call in site.calls("relu"):
            if len(call.args) == 1 and not call.keywords:
                yield Rewrite(
                    "give the activation a gradient for negative inputs",
                    (site.replace(call.func, site.ops("leaky_relu")),),
                    LEAK,
                )


def sum_by_segment(site):
    """A sum of the weights of each bin in place of a weighted count."""
    for call in site.calls("bincount"):
        names = ("x", "weights", "minlength")
        given = dict(zip(names, call.args, strict=False))
        given |= {k.arg: k.value for k in call.keywords}
        if set(names) <= given.keys():
            parts = [given[k] for k in ("weights", "x", "minlength")]
            text = ", ".join(map(site.source, parts))
            yield Rewrite(
                "sum the weights by segment",
                (site.replace(call, f"{site.ops('segment_sum')}({text})"),),
                SAME,
            )


def pass_upstream(site):
    """The gradient that came in where a custom gradient returns nothing."""
    for node in site.nodes:
        if isinstance(node, ast.Return) and len(site.parameters) == 1:
            (upstream,) = site.parameters
            if not isinstance(node.value, ast.Tuple):
                yield Rewrite(
                    "pass the gradient through unchanged",
                    (site.replace(node, f"return {upstream}"),),
                    SAME,
                )


_PROPOSALS = {
    "GG101": (leave_numpy,),
    "GG102": (match_by_probability, soften_comparisons),
    "GG103": (keep_float,),
    "GG104": (match_by_probability, soften_argmax),
    "GG105": (pass_rounding,),
    "GG106": (pass_gradient,),
    "GG108": (leave_numpy,),
    "GG109": (on_tensors,),
    "GG112": (soften_argmax, keep_float),
    "GG114": (soften_comparisons,),
    "GG116": (without_wrapper, leave_numpy),
    "GG121": (call_model,),
    "GG125": (sum_by_segment,),
    "GG119": (keep_tensor,),
    "GG201": (leak,),
    "GG202": (soften_sign,),
    "GG203": (without_clip,),
    "GG205": (other_axis, sigmoid_of_one_unit),
    "GG304": (keep_result,),
    "GG122": (pass_upstream,),
    "GG210": (pass_upstream,),
    "GG241": (soften_comparisons,),
    "GG223": (finite,),
    "GG224": (finite,),
    "GG225": (finite,),
    "GG226": (finite,),
    "GG227": (finite,),
    "GG228": (finite,),
    "GG229": (finite,),
    "GG230": (finite, inside_of_one),
}
