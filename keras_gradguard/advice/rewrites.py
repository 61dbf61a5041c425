"""For each cause the changes of a line that may correct it, the best first.

A rewrite is a proposal: `advice.trial` runs it before anybody sees it. So one
that does not fit the code, or does not help, costs a trial and no trust.
"""

import ast
import os

from keras_gradguard.advice.comparisons import (
    SOFT,
    match_by_probability,
    soften_comparisons,
    soften_selection,
)
from keras_gradguard.advice.finite_values import finite, inside_of_one
from keras_gradguard.advice.indices import (
    blend_rows,
    soften_argmax,
    soften_best,
    soften_code,
    soften_counts,
    soften_draw,
    soften_order,
)
from keras_gradguard.advice.python_code import (
    call_model,
    keep_result,
    keep_tensor,
    leave_numpy,
    map_rows,
    on_tensors,
    without_text,
    without_wrapper,
)
from keras_gradguard.advice.site import SAME, Edit, Rewrite, Site, edited, given
from keras_gradguard.advice.tapes import (
    inside_tape,
    scale_loss,
    scale_once,
    unscale_once,
    use_stored_value,
    watch_source,
)
from keras_gradguard.source.reachable import called

LEAK = "negative inputs are multiplied by 0.2 instead of set to 0"
_ROUNDING = ("round", "rint", "floor", "ceil", "trunc")


def rewrites(site, code):
    """Yields the `Rewrite`s for a line.

    Args:
        site: The `Site`.
        code: Code of the rule that explains its finding.
    """
    found = []
    for propose in _PROPOSALS.get(code, ()):
        for rewrite in propose(site):
            found.append(rewrite)
            yield rewrite
    for rewrite in found[:3]:
        yield from _with_another(site, rewrite)


def _with_another(site, rewrite):
    """A rewrite together with that of another fault of the same line."""
    text = edited(site.text, rewrite.edits)
    if text.count("\n") != site.text.count("\n"):
        return
    changed = Site(site.finding, text)
    for propose in _LOCAL:
        known = next(propose(site), None)
        other = next(propose(changed), None)
        if known is None or other is None or known.text == rewrite.text:
            continue
        both = edited(text, other.edits)
        effects = [rewrite.effect, other.effect]
        differ = [e for e in effects if not str(e).startswith(SAME)]
        yield Rewrite(
            f"{rewrite.text.partition(';')[0]}, and {other.text}",
            (_whole_edit(site.text, both),),
            "; ".join(dict.fromkeys(differ)) or effects[0],
        )


def _whole_edit(old, new):
    """The one `Edit` that makes a text another one."""
    start = len(os.path.commonprefix((old, new)))
    rest = (old[start:][::-1], new[start:][::-1])
    behind = len(os.path.commonprefix(rest))
    return Edit(start, len(old) - behind, new[start : len(new) - behind])


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
                "leave the value unrounded; keep rounding for metrics",
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
                "the value is no longer an integer",
            )
    for call in site.calls("astype"):
        yield Rewrite(
            "keep the floating-point value",
            (site.replace(call, site.operand(call.func.value)),),
            "the value is no longer an integer",
        )


def soften_sign(site):
    """A hyperbolic tangent in place of a sign."""
    for call in site.calls("sign"):
        if call.args:
            value = site.operand(call.args[0])
            yield Rewrite(
                "use tanh instead of the sign",
                (site.replace(call, f"{site.ops('tanh')}(10.0 * {value})"),),
                SOFT,
            )


def pass_gradient(site):
    """What was stopped, without the stop."""
    for call in site.calls("stop_gradient"):
        if call.args:
            yield Rewrite(
                "remove the `stop_gradient`",
                (site.replace(call, site.operand(call.args[0])),),
                f"{SAME}; check that blocking the gradient was not intended",
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
                "the value changes smoothly between the bounds, so it differs",
            )
        if call.args:
            yield Rewrite(
                "leave the value unbounded",
                (site.replace(call, site.operand(call.args[0])),),
                "the value may be outside the bounds",
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
                    "the probabilities sum to 1 over that axis",
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


def without_scale(site):
    """The argument of a saturated function without the factor on it."""
    for call in site.calls("softmax", "sigmoid", "tanh", "log_softmax"):
        first = call.args[0] if call.args else None
        if not isinstance(first, ast.BinOp):
            continue
        sides, kept = (first.left, first.right), None
        if isinstance(first.op, ast.Mult):
            numbers = [isinstance(one, ast.Constant) for one in sides]
            if any(numbers):
                kept = sides[1 - numbers.index(True)]
        elif isinstance(first.op, ast.Div):
            kept = first.left
        if kept is not None:
            yield Rewrite(
                "do not scale the scores up",
                (site.replace(first, site.source(kept)),),
                "the value is not as close to 0 or 1",
            )


# A smaller factor is a weight among the terms of a loss.
_LEAST_FACTOR = 1e3


def without_factor(site):
    """The value that a large number multiplies, without that number."""
    for node in site.nodes:
        if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
            continue
        for factor, kept in ((node.left, node.right), (node.right, node.left)):
            number = getattr(factor, "value", None)
            is_number = isinstance(number, (int, float))
            if is_number and abs(number) >= _LEAST_FACTOR:
                yield Rewrite(
                    "remove the large factor",
                    (site.replace(node, site.operand(kept)),),
                    "the loss is that much smaller",
                )


def with_gradient(site):
    """Another method of an image op, or its formula written out."""
    for call in site.calls("resize"):
        method = given(call, "method", at=2)
        is_area = "area" in site.source(method).lower() if method else False
        names = [keyword.arg for keyword in call.keywords]
        if is_area and "antialias" not in names and len(call.args) <= 3:
            text = '"bilinear", antialias=True'
            edits = [site.replace(method, text)]
            if method in call.args and call.keywords:
                # What is given by position stands in front.
                edits = [site.replace(method, '"bilinear"')]
                last = site.replace(call.keywords[-1].value, "").end
                edits.append(Edit(last, last, ", antialias=True"))
            yield Rewrite(
                "resize with a method that has a gradient",
                tuple(edits),
                "near pixels get more weight than far ones: the loss differs",
            )
    for call in site.calls("adjust_contrast"):
        image = given(call, "images")
        factor = given(call, "contrast_factor", at=1)
        if isinstance(image, ast.Name) and factor is not None:
            image, factor = site.operand(image), site.operand(factor)
            mean = f"{site.ops('mean')}({image}, axis=(-3, -2), keepdims=True)"
            text = f"(({image} - {mean}) * {factor} + {mean})"
            yield Rewrite(
                "compute the contrast from the mean",
                (site.replace(call, site.bare(call, text)),),
                SAME,
            )


def compare_prediction(site):
    """The prediction where a loss has the labels alone."""
    if len(site.parameters) != 2 or site.reads_of(site.parameters[1]):
        return
    labels, scores = site.parameters
    edits = []
    # The line is that of the value; where it comes from may be another one.
    for node in site.around:
        sides = getattr(node, "args", None)
        if isinstance(node, ast.BinOp):
            sides = [node.left, node.right]
        if not isinstance(sides, list):
            continue
        names = [getattr(one, "id", None) for one in sides]
        if names == [labels, labels]:
            edits.append(site.replace(sides[1], scores))
        elif names == [labels] and called(node) in ("square", "abs"):
            edits.append(site.replace(sides[0], f"{labels} - {scores}"))
    if len(edits) == 1:
        yield Rewrite(
            "compare the prediction with the labels",
            tuple(edits),
            "the loss now depends on the prediction",
        )


# What mends a fault of one line and leaves the others of the line.
_LOCAL = (
    soften_comparisons,
    pass_rounding,
    keep_float,
    soften_sign,
    soften_argmax,
    pass_gradient,
)
_PROPOSALS = {
    "GG263": (scale_loss,),
    "GG264": (scale_once,),
    "GG265": (unscale_once,),
    "GG101": (leave_numpy,),
    "GG102": (match_by_probability, soften_comparisons),
    "GG103": (soften_code, soften_counts, blend_rows, keep_float),
    "GG104": (match_by_probability, soften_argmax),
    "GG105": (soften_code, soften_counts, blend_rows, pass_rounding),
    "GG106": (pass_gradient,),
    "GG108": (leave_numpy,),
    "GG107": (with_gradient,),
    "GG109": (on_tensors,),
    "GG111": (soften_order, soften_best),
    "GG112": (soften_argmax, soften_code, keep_float),
    "GG113": (soften_selection,),
    "GG114": (soften_counts, soften_comparisons),
    "GG115": (soften_draw,),
    "GG116": (without_wrapper, leave_numpy),
    "GG110": (map_rows,),
    "GG117": (without_text,),
    "GG118": (use_stored_value,),
    "GG120": (inside_tape,),
    "GG123": (blend_rows,),
    "GG126": (watch_source,),
    "GG121": (call_model,),
    "GG125": (sum_by_segment,),
    "GG119": (keep_tensor,),
    "GG201": (leak,),
    "GG202": (soften_sign,),
    "GG203": (without_clip,),
    "GG204": (without_scale,),
    "GG205": (other_axis, sigmoid_of_one_unit),
    "GG303": (compare_prediction,),
    "GG304": (keep_result,),
    "GG122": (pass_upstream,),
    "GG210": (pass_upstream,),
    "GG233": (without_factor,),
    "GG241": (soften_comparisons,),
    "GG243": (soften_sign,),
    "GG223": (finite,),
    "GG224": (finite,),
    "GG225": (finite,),
    "GG226": (finite,),
    "GG227": (finite,),
    "GG228": (finite,),
    "GG229": (finite,),
    "GG230": (finite, inside_of_one),
}
