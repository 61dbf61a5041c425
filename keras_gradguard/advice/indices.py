"""Soft forms of indices, orders, counts and draws."""

import ast

from keras_gradguard.advice.comparisons import SOFT, scores_of
from keras_gradguard.advice.site import Rewrite, given
from keras_gradguard.source.reachable import called

_ROUNDED = ("cast", "round", "rint", "floor", "trunc")


def soften_argmax(site):
    """A softmax in place of a one-hot code, an expected index for an index."""
    for call in site.calls("argmax"):
        if not call.args:
            continue
        scores, axis = scores_of(site, call)
        share = f"{site.ops('softmax')}(10.0 * {scores}, axis={axis})"
        holder = site.parent(call)
        if isinstance(holder, ast.Call) and called(holder) == "one_hot":
            yield Rewrite(
                "use a softmax instead of the one-hot vector",
                (site.replace(holder, share),),
                SOFT,
            )
        call = _with_cast(site, call)
        text = _expected(site, scores, axis)
        yield Rewrite(
            "use the expected index under a softmax",
            (site.replace(call, text),),
            SOFT,
        )


def _expected(site, scores, axis, keepdims=False):
    """Text of the index that is expected under a softmax of scores."""
    share = f"{site.ops('softmax')}(10.0 * {scores}, axis={axis})"
    size = f"{site.ops('shape')}({scores})[{axis}]"
    indices = f'{site.ops("cast")}({site.ops("arange")}({size}), "float32")'
    rest = ", keepdims=True" if keepdims else ""
    return f"{site.ops('sum')}({share} * {indices}, axis={axis}{rest})"


def _with_cast(site, node):
    """The cast around a node, or the node."""
    holder = site.parent(node)
    is_cast = called(holder) == "cast" and node in holder.args
    return holder if is_cast else node


def _is_last(site, call, name):
    """Whether an axis is the last one, as it is by default."""
    axis = given(call, name, at=1)
    return axis is None or site.source(axis) == "-1"


def soften_order(site):
    """A count of the lower scores in place of a rank by sorting twice."""
    for call in site.calls("argsort"):
        for outer, edits in _ranks(site, call):
            scores = given(call, "values", "x")
            if scores is None or not _is_last(site, call, "axis"):
                continue
            if not _is_last(site, outer, "axis") or _is_descending(outer):
                continue
            yield _soft_rank(site, (call, outer), scores, edits)


def _ranks(site, call):
    """Yields `(outer, inner)`: a sort of what a sort returned.

    With the edits that the line of the inner one needs.
    """
    holder = site.parent(call)
    if called(holder) == "argsort" and call in holder.args:
        yield holder, None
    elif isinstance(holder, ast.Assign) and len(holder.targets) == 1:
        name = getattr(holder.targets[0], "id", None)
        reads = site.reads_of(name)
        if len(reads) == 1 and len(site.assigned(name)) == 1:
            outer = site.parent(reads[0])
            if called(outer) == "argsort" and reads[0] in outer.args[:1]:
                yield outer, (holder, reads[0])


def _soft_rank(site, calls, scores, named):
    sign = "-" if _is_descending(calls[0]) else ""
    text, outer = site.operand(scores), _with_cast(site, calls[1])
    gaps = f"{text}[..., :, None] - {text}[..., None, :]"
    edits, given_name = [], f"({gaps})"
    if named is not None:
        holder, _ = named
        given_name = "gaps"
        if given_name in site.names():
            given_name = site.source(holder.targets[0])
        edits.append(site.replace(holder, f"{given_name} = {gaps}"))
    soft = f"{site.ops('sigmoid')}({sign}10.0 * {given_name})"
    rank = f"({site.ops('sum')}({soft}, axis=-1) - 0.5)"
    edits.append(site.replace(outer, site.bare(outer, rank)))
    return Rewrite(
        "use a soft rank: how many scores lie below this one",
        tuple(edits),
        SOFT,
    )


def _is_descending(call):
    value = given(call, "direction", at=2)
    return getattr(value, "value", None) == "DESCENDING"


def soften_best(site):
    """An expected index under a softmax in place of `top_k`'s best index."""
    for call in site.calls("top_k"):
        scores = given(call, "x", "input")
        count = given(call, "k", at=1)
        if scores is None or (count is not None and site.source(count) != "1"):
            continue
        picked, edits = _index_of_best(site, call)
        if picked is None:
            continue
        text = _expected(site, site.operand(scores), "-1", keepdims=True)
        yield Rewrite(
            "use the expected index under a softmax",
            (*edits, site.replace(picked, text)),
            SOFT,
        )


def _index_of_best(site, call):
    """`(node, edits)`: what is the index that a `top_k` returns."""
    holder = site.parent(call)
    if isinstance(holder, ast.Attribute) and holder.attr == "indices":
        return _with_cast(site, holder), ()
    if isinstance(holder, ast.Subscript):
        if site.source(holder.slice) in ("1", "-1"):
            return _with_cast(site, holder), ()
    if isinstance(holder, ast.Assign) and len(holder.targets) == 1:
        names = getattr(holder.targets[0], "elts", [])
        if len(names) == 2 and isinstance(names[1], ast.Name):
            name = names[1].id
            is_alone = not site.reads_of(getattr(names[0], "id", None))
            if is_alone and len(site.reads_of(name)) >= 1:
                return call, (site.replace(holder.targets[0], name),)
    return None, ()


def soften_code(site):
    """A softmax by the distance to each class in place of a one-hot code."""
    for call in site.calls("one_hot", nodes=site.around):
        number = given(call, "indices", "x")
        count = given(call, "depth", "num_classes", at=1)
        axis = given(call, "axis", at=2)
        names = [k.arg for k in call.keywords]
        if number is None or count is None or "on_value" in names:
            continue
        if axis is not None and site.source(axis) != "-1":
            continue
        number, edits = _number(site, number)
        if called(number) == "argmax" or not _is_here(site, call, edits):
            continue
        text = _near(site, number, site.source(count))
        yield Rewrite(
            "use a softmax of the distance to each class index",
            (*edits, site.replace(call, text)),
            "a value between two classes counts for both: the loss differs",
        )


def blend_rows(site):
    """A blend of the rows of a table in place of the row at an index."""
    for call in site.calls("gather", "take", nodes=site.around):
        table = given(call, "params", "x")
        index = given(call, "indices", at=1)
        axis = given(call, "axis", at=None)
        if axis is not None and site.source(axis) != "0":
            continue
        if table is None or index is None:
            continue
        number, edits = _number(site, index)
        is_index = edits or number is not index
        if not is_index or not _is_here(site, call, edits):
            continue
        rows = f"{site.ops('shape')}({site.source(table)})[0]"
        share = _near(site, number, rows)
        text = f"{site.ops('tensordot')}({share}, {site.source(table)}, 1)"
        yield Rewrite(
            "weight the rows of the table by their distance to the value",
            (*edits, site.replace(call, text)),
            "a value between two rows uses both: the loss differs",
        )


def _number(site, node):
    """`(number, edits)`: what was rounded or cast, and edits of its line.

    Where a name stands for a rounded number that is read once, the name
    keeps the number itself.
    """
    if isinstance(node, ast.Name):
        made = site.assigned(node.id)
        if len(made) == 1 and len(site.reads_of(node.id)) == 1:
            number = _unrounded(made[0])
            if number is not made[0]:
                edit = site.replace(made[0], site.source(number))
                return node, (edit,)
        return node, ()
    return _unrounded(node), ()


def _unrounded(node):
    while isinstance(node, ast.Call) and called(node) in _ROUNDED and node.args:
        node = node.args[0]
    return node


def _is_here(site, call, edits):
    """Whether a call, or another edit that it needs, is on the line."""
    start, end = site.line_start(site.line), site.line_start(site.line + 1)
    return site.covers(call) or any(start <= e.start < end for e in edits)


def _near(site, number, count):
    """Text of shares of whole numbers by their distance to a number."""
    whole = f'{site.ops("cast")}({site.ops("arange")}({count}), "float32")'
    gap = f"{site.operand(number)}[..., None] - {whole}"
    soft = f"-10.0 * {site.ops('square')}({gap})"
    return f"{site.ops('softmax')}({soft}, axis=-1)"


def soften_draw(site):
    """Gumbel-softmax in place of the one-hot code of a draw of a class."""
    for call in site.calls("categorical"):
        scores = given(call, "logits")
        count = given(call, "num_samples", at=1)
        module = getattr(call.func, "value", None)
        if scores is None or count is None or module is None:
            continue
        codes, named = _codes(site, call)
        if site.source(count) != "1" or len(codes) != 1:
            continue
        log, size = site.ops("log"), site.ops("shape")
        uniform = f"{site.source(module)}.uniform"
        uniform += f"({size}({site.source(scores)}), 1e-6, 1.0)"
        noisy = f"{site.operand(scores)} - {log}(-{log}({uniform}))"
        softmax = site.ops("softmax")
        if named is None:
            code = f"{softmax}(2.0 * ({noisy}), axis=-1)"
            edits = [site.replace(codes[0], code)]
        else:
            code = f"{softmax}(2.0 * {named}, axis=-1)"
            edits = [site.replace(call, noisy), site.replace(codes[0], code)]
        yield Rewrite(
            "sample a soft one-hot vector (Gumbel-softmax)",
            tuple(edits),
            "a soft sample instead of a hard one: the loss differs",
        )


def _codes(site, call):
    """`(one-hot codes, name)` of a draw: where it goes, under which name."""
    holder = site.parent(call)
    if not isinstance(holder, ast.Assign):
        return list(filter(None, [_code_around(site, call)])), None
    name = getattr(holder.targets[0], "id", None)
    later = [n for n in site.reads_of(name) if n.lineno > holder.end_lineno]
    # Up to where the name gets another value.
    ends = [
        site.parent(value).end_lineno
        for value in site.assigned(name)
        if value.lineno > holder.end_lineno
    ]
    last = min(ends, default=None)
    later = [n for n in later if last is None or n.lineno <= last]
    codes = [_code_around(site, node) for node in later]
    return [] if None in codes else codes, name


def _code_around(site, node):
    """The one-hot code of a draw, behind casts, slices and squeezes.

    `None` where the axis of the one draw stays.
    """
    is_flat = False
    while True:
        holder = site.parent(node)
        if called(holder) == "one_hot" and node in holder.args[:1]:
            return holder if is_flat else None
        if isinstance(holder, ast.Subscript):
            parts = getattr(holder.slice, "elts", [holder.slice])
            is_flat |= len(parts) > 1 and _constant(parts[-1]) in (0, -1)
        is_flat |= called(holder) in ("squeeze", "reshape")
        is_passed = isinstance(holder, ast.Subscript) or (
            called(holder) in ("cast", "squeeze", "reshape")
        )
        if not is_passed:
            return None
        node = holder


def soften_counts(site):
    """Shares of each value in all bins, in place of a count."""
    names = ("histogram_fixed_width", "searchsorted", "digitize", "bincount")
    here, others = [], []
    for call in site.calls(*names, nodes=site.around):
        text, edits = _soft_counts(site, call)
        if text is not None:
            known = here if _is_here(site, call, edits) else others
            known += [site.replace(_with_cast(site, call), text), *edits]
    effect = "each value contributes a share to the bins around it"
    text = "let each value contribute to all bins"
    if here and others:
        # Counts that are compared are to be soft on both sides.
        yield Rewrite(text, (*here, *others), effect)
    if here:
        yield Rewrite(text, tuple(here), effect)


def _soft_counts(site, call):
    """`(text, edits)`: the soft form of a count, `None` if there is none."""
    name = called(call)
    if name == "bincount":
        return _soft_bincount(site, call)
    if name == "searchsorted":
        edges = given(call, "sorted_sequence")
        return _soft_bins(site, edges, given(call, "values", at=1), True), ()
    if name == "digitize":
        return _soft_bins(site, given(call, "bins", at=1), given(call, "x")), ()
    return _soft_histogram(site, call), ()


def _soft_bincount(site, call):
    value = given(call, "arr", "x")
    count = given(call, "minlength", at=2)
    weights = given(call, "weights", at=1)
    if value is None or count is None or weights is not None:
        return None, ()
    value, edits = _number(site, value)
    whole = f"{site.ops('arange')}({site.source(count)})"
    whole = f'{site.ops("cast")}({whole}, "float32")'
    if site.ops("sum").endswith("reduce_sum"):
        if given(call, "axis", at=None) is not None:
            return None, ()
        return _shares(site, f"{_column(site, value)} - {whole}"), edits
    # Keras counts each row of a matrix by itself.
    gap = f"{site.operand(value)}[..., None] - {whole}"
    return _shares(site, gap, axis=-2), edits


def _soft_histogram(site, call):
    value = given(call, "values")
    span = given(call, "value_range", at=1)
    count = given(call, "nbins", at=2)
    ends = [_constant(one) for one in getattr(span, "elts", ())]
    number = 100 if count is None else _constant(count)
    if value is None or len(ends) != 2 or None in (*ends, number):
        return None
    low, high = ends
    width = (high - low) / number
    first, last, width = (
        f"{one:#.7g}".rstrip("0") + "0" * (one == round(one))
        for one in (low + width / 2, high - width / 2, width)
    )
    centres = f"{site.ops('linspace')}({first}, {last}, {number})"
    gap = f"{_column(site, value)} - {centres}"
    return _shares(site, f"({gap}) / {width}")


def _column(site, value):
    return f"{site.ops('reshape')}({site.source(value)}, (-1, 1))"


def _shares(site, gap, axis=0):
    """Text of how much of the values belongs to each bin, by distances."""
    soft = f"-10.0 * {site.ops('square')}({gap})"
    share = f"{site.ops('softmax')}({soft}, axis=-1)"
    return f"{site.ops('sum')}({share}, axis={axis})"


def _soft_bins(site, edges, values, is_batch=False):
    """Text of how many edges lie below a value, `None` if it is not known."""
    if edges is None or values is None:
        return None
    below, values = site.operand(edges), site.operand(values)
    if isinstance(edges, (ast.List, ast.Tuple)):
        below = f"{site.ops('convert_to_tensor')}({site.source(edges)})"
    gap = f"{values}[..., None] - {below}"
    if is_batch:
        # Each row of values may have edges of its own.
        gap = f"{values}[..., :, None] - {below}[..., None, :]"
    soft = f"{site.ops('sigmoid')}(10.0 * ({gap}))"
    return f"{site.ops('sum')}({soft}, axis=-1)"


def _constant(node):
    """The number that a node is, `None` for all else."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return value if isinstance(value, (int, float)) else None
