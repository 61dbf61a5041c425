"""Soft comparisons and masks, and matches of classes as probabilities."""

import ast

from keras_gradguard.advice.site import Rewrite, given
from keras_gradguard.source.reachable import called

SOFT = "a soft value instead of a hard one: the loss differs"
_COMPARED = {
    **dict.fromkeys(("greater", "greater_equal"), (0, 1)),
    **dict.fromkeys(("less", "less_equal"), (1, 0)),
}
_ORDERS = {
    **dict.fromkeys((ast.Gt, ast.GtE), (0, 1)),
    **dict.fromkeys((ast.Lt, ast.LtE), (1, 0)),
}
_REDUCED = {
    "sum": False,
    "reduce_sum": False,
    "mean": True,
    "reduce_mean": True,
}
_ELEMENTWISE = frozenset(
    "abs square sqrt exp log log1p tanh sigmoid relu softplus maximum minimum "
    "cast subtract add multiply divide power pow negative".split()
)
_ZEROS, _ONES = ("0", "0.0", "0."), ("1", "1.0", "1.")


def soften_comparisons(site):
    """A sigmoid of the difference in place of a comparison."""
    edits = _softened(site, site.nodes)
    for edit in edits:
        is_match = f"{site.ops('sigmoid')}(" not in edit.text
        soft = "an exponential of the gap" if is_match else "a sigmoid"
        text = f"use {soft} instead of the comparison"
        yield Rewrite(text, (edit,), SOFT)
    text = "use sigmoids instead of the comparisons"
    if len(edits) > 1:
        yield Rewrite(text, edits, SOFT)
    everywhere = _softened(site, site.around) + _blended(site)
    # Comparisons of other lines alone are another finding's.
    if edits and len(everywhere) > len(edits):
        yield Rewrite(text, everywhere, SOFT)


def _softened(site, nodes):
    """The edits that make each comparison and what combines them soft."""
    return tuple(
        site.replace(*_with_holder(site, node, soft))
        for node in nodes
        if (soft := soft_form(site, node)) is not None
    )


def _blended(site):
    """The choices by a comparison that has a name, as sums of both sides."""
    edits = []
    for call in site.calls("where", nodes=site.around):
        if len(call.args) == 3 and isinstance(call.args[0], ast.Name):
            made = site.assigned(call.args[0].id)
            if len(made) == 1 and soft_form(site, made[0]) is not None:
                name, one, other = map(site.operand, call.args)
                edits.append(site.replace(call, _mixed(name, one, other)))
    return tuple(edits)


def _mixed(share, one, other):
    """The text of one value where a share is 1, of another where it is 0."""
    if other in _ZEROS:
        return share if one in _ONES else f"({share} * {one})"
    return f"({other} + {share} * ({one} - {other}))"


def soft_form(site, node):
    """Returns the text of a soft comparison, `None` for all else.

    Its value lies between 0, for false, and 1.
    """
    if isinstance(node, ast.Call) and node.args:
        values = [
            soft_form(site, one) or site.operand(one) for one in node.args
        ]
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
    if site.source(larger) in _ZEROS:
        gap = f"-{site.operand(smaller)}"
    factor = f"({gap})"
    if site.source(smaller) in _ZEROS:
        gap = factor = site.operand(larger)
    if is_equal is None:
        return f"{site.ops('sigmoid')}(10.0 * {factor})"
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
        both = [site.resolved(side) for side in sides[:2]]
        found = [one for one in both if _is_argmax(one)]
        if not any(map(site.covers, (node, *found))):
            # A match that the finding has no part in.
            continue
        if len(found) == 2:
            # A loss takes the labels first and the prediction second.
            found.sort(key=lambda one: _is_of(site.parameters[1:2], one))
            if not _is_of(site.parameters[1:2], found[1]):
                continue
            (labels, axis), (scores, _) = (
                scores_of(site, one) for one in found
            )
        elif found:
            scores, axis = scores_of(site, found[0])
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
            "use the probability of the label instead of comparing classes",
            (site.replace(node, text),),
            SOFT,
        )


def _is_of(names, node):
    return any(getattr(n, "id", None) in names for n in ast.walk(node))


def _is_argmax(node):
    return isinstance(node, ast.Call) and called(node) == "argmax"


def scores_of(site, call):
    """Returns the texts of what an `argmax` is of and of its axis."""
    axis = [k.value for k in call.keywords if k.arg == "axis"] + call.args[1:2]
    axis = site.source(axis[0]) if axis else "-1"
    return site.operand(call.args[0]), axis


def soften_selection(site):
    """A sum with a soft mask in place of the elements that a mask picks."""
    for call in site.calls("where", "nonzero"):
        condition = given(call, "condition", "x")
        is_alone = len(call.args) + len(call.keywords) == 1
        soft = None if condition is None else soft_form(site, condition)
        if not is_alone or soft is None:
            continue
        holder = site.parent(call)
        if isinstance(holder, ast.Assign) and len(holder.targets) == 1:
            name = getattr(holder.targets[0], "id", None)
            reads = site.reads_of(name)
            edits = _masked(site, name, [site.parent(one) for one in reads])
            if edits and len(site.assigned(name)) == 1:
                yield _selected((site.replace(call, soft), *edits))
        elif called(holder) == "gather_nd":
            edits = _masked(site, soft, [holder])
            if edits:
                yield _selected(edits)
    for call in site.calls("boolean_mask"):
        condition = given(call, "mask", at=1)
        soft = None if condition is None else soft_form(site, condition)
        edits = soft and _masked(site, soft, [call])
        if edits:
            yield _selected(edits)


def _selected(edits):
    return Rewrite(
        "multiply by a soft mask instead of selecting elements",
        tuple(edits),
        SOFT,
    )


def _masked(site, mask, picks):
    """The edits that weigh what was picked; `()` if it is no plain sum."""
    totals = {}
    for pick in picks:
        if called(pick) not in ("gather_nd", "boolean_mask") or not pick.args:
            return ()
        node = pick
        while _is_elementwise(site.parent(node)):
            node = site.parent(node)
        total = site.parent(node)
        is_total = called(total) in _REDUCED and total.args == [node]
        if not is_total or total.keywords:
            return ()
        totals.setdefault(total, []).append(pick)
    edits = []
    for total, found in totals.items():
        (whole,) = total.args
        if not _is_for_each(site, whole, found):
            return ()
        if not all(_is_alike(site, pick) for pick in found):
            return ()
        text = site.with_replaced(
            whole, [(pick, site.operand(pick.args[0])) for pick in found]
        )
        if not isinstance(whole, ast.Call) or whole in found:
            text = text if whole in found else f"({text})"
        weighed = f"{site.ops('sum')}({mask} * {text})"
        if _REDUCED[called(total)]:
            weighed = f"({weighed} / {site.ops('sum')}({mask}))"
            weighed = site.bare(total, weighed)
        edits.append(site.replace(total, weighed))
    return tuple(edits)


def _is_alike(site, pick):
    """Whether what is picked from has a number for each one of the mask.

    A mask of rows of a matrix would spread over its columns.
    """
    mask = given(pick, "mask", "indices", at=1)
    mask = site.resolved(mask)
    if called(mask) in ("where", "nonzero"):
        mask = given(mask, "condition", "x")
    first, second = (_leaves(site, one) for one in (pick.args[0], mask))
    return first == second or first | second <= set(site.parameters)


def _leaves(site, node):
    """The texts that a term of elements is made of, but for constants."""
    made = site.resolved(node)
    if isinstance(made, ast.Constant):
        return set()
    if isinstance(made, ast.Compare):
        parts = [made.left, *made.comparators]
    elif isinstance(made, ast.BinOp):
        parts = [made.left, made.right]
    elif isinstance(made, ast.UnaryOp):
        parts = [made.operand]
    elif _is_elementwise(made) or called(made) in (*_COMPARED, "equal"):
        parts = made.args
    else:
        return {site.source(made)}
    return set().union(*(_leaves(site, one) for one in parts))


def _is_elementwise(node):
    return isinstance(node, (ast.BinOp, ast.UnaryOp)) or (
        isinstance(node, ast.Call) and called(node) in _ELEMENTWISE
    )


def _is_for_each(site, node, picks):
    """Whether a term has one number for each element that was picked."""
    if node in picks or isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.BinOp):
        return all(
            _is_for_each(site, one, picks) for one in (node.left, node.right)
        )
    if isinstance(node, ast.UnaryOp):
        return _is_for_each(site, node.operand, picks)
    if isinstance(node, ast.Call) and called(node) == "cast":
        return _is_for_each(site, node.args[0], picks)
    return _is_elementwise(node) and all(
        _is_for_each(site, one, picks) for one in node.args
    )
