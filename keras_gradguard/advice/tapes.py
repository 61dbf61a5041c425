"""Changes that keep a value, or a derivative, on the gradient tape."""

import ast
import builtins
import keyword

from keras_gradguard.advice.site import SAME, Edit, Rewrite, given
from keras_gradguard.source.reachable import called

_DERIVATIVES = ("gradient", "jacobian", "batch_jacobian")
_STORING = ("assign", "assign_add", "assign_sub")
_SIGNS = {"assign_add": "+", "assign_sub": "-"}
_READING = ("value", "read_value")
_APPLYING = ("apply", "apply_gradients")


def inside_tape(site):
    """The line inside of the `with` block that records, or recording on."""
    statement = site.statement
    if statement is None:
        return
    while isinstance(statement, ast.stmt) and statement is not site.function:
        holder = site.parent(statement)
        if _opens(holder, "stop_recording"):
            yield from _without_block(site, holder)
        before, behind = site.siblings(statement)
        for number, other in enumerate(behind):
            if _opens(other, "GradientTape"):
                moved = [statement, *behind[:number]]
                yield from _moved_down(site, moved, other)
                break
        for number, other in enumerate(reversed(before)):
            if _opens(other, "GradientTape"):
                moved = [*before[len(before) - number :], statement]
                yield from _indented(site, moved, other)
                break
        statement = holder


def _opens(node, name):
    """Whether a statement is a `with` of one call with a name."""
    return (
        isinstance(node, ast.With)
        and len(node.items) == 1
        and called(node.items[0].context_expr) == name
    )


def _is_movable(statements, block):
    """Whether lines may be indented anew: no text in them runs over lines."""
    nodes = [n for one in (*statements, block) for n in ast.walk(one)]
    is_text = (
        isinstance(n, (ast.JoinedStr, ast.Constant))
        and n.lineno != n.end_lineno
        for n in nodes
    )
    return block.body[0].lineno > block.lineno and not any(is_text)


def _differentiates(statements):
    return any(
        called(node) in _DERIVATIVES
        for one in statements
        for node in ast.walk(one)
        if isinstance(node, ast.Call)
    )


def _moved_down(site, statements, block):
    """Lines in front of a tape, as the first ones that it records."""
    if not _is_movable(statements, block) or _differentiates(statements):
        return
    start = site.line_start(statements[0].lineno)
    head, body = site.line_start(block.lineno), block.body[0]
    inside = site.line_start(body.lineno)
    end = site.line_start(statements[-1].end_lineno + 1)
    moved = _shifted(site.text[start:end], body.col_offset - block.col_offset)
    # Comments on the block stay in front of it.
    between = site.text[end:head].lstrip("\n")
    yield Rewrite(
        "move the line into the `with` block of the tape",
        (Edit(start, inside, between + site.text[head:inside] + moved),),
        SAME,
    )


def _indented(site, statements, block):
    """Lines behind a tape, as the last ones that it records."""
    if not _is_movable(statements, block) or _differentiates(statements):
        return
    start = site.line_start(block.end_lineno + 1)
    end = site.line_start(statements[-1].end_lineno + 1)
    step = block.body[0].col_offset - block.col_offset
    yield Rewrite(
        "move the line into the `with` block of the tape",
        (Edit(start, end, _shifted(site.text[start:end], step)),),
        SAME,
    )


def _without_block(site, block):
    if not _is_movable([], block):
        return
    start = site.line_start(block.lineno)
    inside = site.line_start(block.body[0].lineno)
    end = site.line_start(block.end_lineno + 1)
    step = block.body[0].col_offset - block.col_offset
    text = _shifted(site.text[inside:end], -step)
    yield Rewrite(
        "record the line: remove `stop_recording`",
        (Edit(start, end, text),),
        f"{SAME}; check that `stop_recording` was not intended",
    )


def _shifted(text, step):
    """Lines with more or less white space in front; empty ones stay so."""
    lines = text.splitlines(keepends=True)
    if step < 0:
        return "".join(
            line[-step:] if not line[:-step].strip() else line for line in lines
        )
    return "".join(" " * step + one if one.strip() else one for one in lines)


def watch_source(site):
    """A `watch` of what a derivative is taken by."""
    found = [
        one for call in _derivatives(site) if (one := _watched(site, call))
    ]
    if not found:
        return
    text = "watch the tensor before it is used"
    names = {name for _, used in found for name in used}
    edits = [edit for edit, _ in found]
    yield Rewrite(text, tuple(edits))
    others = [
        one[0]
        for call in _derivatives(site, site.around)
        if (one := _watched(site, call)) and names & one[1]
    ]
    if len(others) > len(edits):
        # A second derivative has a tape of its own.
        yield Rewrite(text, tuple(dict.fromkeys((*edits, *others))))


def _derivatives(site, nodes=None):
    return site.calls(*_DERIVATIVES, nodes=nodes)


def _watched(site, call):
    """`(edit, names)`: a `watch` of a derivative's source, or `None`."""
    source = given(call, "sources", "source", at=1)
    tape = getattr(call.func, "value", None)
    block = _block_of(site, tape)
    listed = getattr(source, "elts", [source])
    if block is None or not all(isinstance(n, ast.Name) for n in listed):
        return None
    names = {one.id for one in listed}
    first = block.body[0]
    if first.lineno == block.lineno:
        return None
    setting = [
        node
        for node in ast.walk(block)
        if isinstance(node, ast.Assign) and names & _set_in(node)
    ]
    last = max(setting, key=lambda n: n.lineno, default=None)
    # Behind what is set last: what is made of it is to be recorded.
    line = first.lineno if last is None else last.end_lineno + 1
    start = site.line_start(line)
    white = " " * (first if last is None else last).col_offset
    text = f"{white}{site.source(tape)}.watch({site.source(source)})\n"
    return Edit(start, start, text), names


def _block_of(site, tape):
    """The `with` block of a tape's name, `None` if there is not just one."""
    found = [
        node
        for node in site.around
        if isinstance(node, ast.With)
        and any(
            called(item.context_expr) == "GradientTape"
            and getattr(item.optional_vars, "id", None)
            == getattr(tape, "id", "")
            for item in node.items
        )
    ]
    return found[0] if len(found) == 1 else None


def _set_in(statement):
    return {
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def use_stored_value(site):
    """The tensor that was assigned to a variable, in place of the variable."""
    statement = site.statement
    call = getattr(statement, "value", None)
    holder = getattr(getattr(call, "func", None), "value", None)
    is_named = isinstance(holder, (ast.Name, ast.Attribute))
    if not is_named or not isinstance(statement, ast.Expr) or not call.args:
        return
    variable, name = site.source(holder), called(call)
    if name == "update_state":
        yield from _batch_alone(site, statement, call)
    if name not in _STORING or len(call.args) != 1:
        return
    value = site.source(call.args[0])
    if name in _SIGNS:
        value = f"{variable} {_SIGNS[name]} {site.operand(call.args[0])}"
    _, behind = site.siblings(statement)
    reads = list(_reads(site, variable, behind))
    if not reads or None in reads:
        return
    new = _new_name(site, variable)
    white = " " * statement.col_offset
    text = f"{new} = {value}\n{white}{variable}.assign({new})"
    edits = [site.replace(statement, text)]
    edits += [site.replace(node, new) for node in reads]
    yield Rewrite(
        "use the tensor itself; store it for display only", tuple(edits), SAME
    )


def _batch_alone(site, statement, call):
    """What goes into a metric, in place of what it has gathered."""
    metric = site.source(call.func.value)
    _, behind = site.siblings(statement)
    edits = [
        site.replace(node, site.operand(call.args[0]))
        for one in behind
        for node in ast.walk(one)
        if isinstance(node, ast.Call)
        and called(node) == "result"
        and site.source(node.func) == f"{metric}.result"
        and not _is_shown(site, node)
    ]
    if edits and len(call.args) == 1:
        yield Rewrite(
            "use the tensor itself; use the metric for display only",
            tuple(edits),
            "the value is for this batch, not the mean over batches",
        )


def _is_shown(site, node):
    """Whether a value stands in the dict of logs that a step returns."""
    while isinstance(node, ast.expr):
        node = site.parent(node)
        if isinstance(node, ast.Dict):
            return True
    return False


def _reads(site, variable, statements):
    """Yields what reads a variable, and `None` where it is changed again."""
    for statement in statements:
        for node in ast.walk(statement):
            if not isinstance(node, (ast.Name, ast.Attribute)):
                continue
            if site.source(node) != variable:
                continue
            holder = site.parent(node)
            call = site.parent(holder)
            if not isinstance(holder, ast.Attribute):
                yield node
            elif isinstance(call, ast.Call) and call.func is holder:
                yield call if holder.attr in _READING else None


def _new_name(site, variable):
    """A name for the value of a variable that the function does not use."""
    known = site.names() | set(dir(builtins))
    last = variable.rpartition(".")[2].lower().lstrip("_")
    names = (last, f"new_{last}", f"value_of_{last}")
    free = (n for n in names if n not in known and not keyword.iskeyword(n))
    return next(free, f"{last}_to_store")


def scale_loss(site):
    """The loss times the loss scale, as the last line that a tape records.

    Args:
        site: The `Site` of the call of `gradient`.
    """
    optimizers = {
        site.source(call.func.value)
        for call in site.calls(*_APPLYING, nodes=site.around)
        if isinstance(call.func, ast.Attribute)
    }
    for call in site.calls("gradient"):
        tape = getattr(call.func, "value", None)
        loss = call.args[0] if call.args else None
        if not isinstance(loss, ast.Name) or not isinstance(tape, ast.Name):
            continue
        blocks = [
            node
            for node in site.around
            if isinstance(node, ast.With)
            and any(
                getattr(item.optional_vars, "id", None) == tape.id
                for item in node.items
            )
        ]
        names = {n.id for n in site.around if isinstance(n, ast.Name)}
        if len(blocks) != 1 or len(optimizers) != 1 or "scaled" in names:
            continue
        last = blocks[0].body[-1]
        line = f"scaled = {optimizers.copy().pop()}.scale_loss({loss.id})"
        end = site.replace(last, "").end
        added = Edit(end, end, f"\n{' ' * last.col_offset}{line}")
        yield Rewrite(
            "scale the loss inside the tape",
            (added, site.replace(loss, "scaled")),
            "the gradients are scaled, as the optimizer expects",
        )


def scale_once(site):
    """The loss without the second of two calls of `scale_loss`.

    Args:
        site: The `Site` of that call.
    """
    for call in site.calls("scale_loss"):
        if len(call.args) == 1 and not call.keywords:
            yield Rewrite(
                "scale the loss once",
                (site.replace(call, site.source(call.args[0])),),
                "each update is smaller by the loss scale",
            )


def unscale_once(site):
    """The gradients as they are, where the step divides by the loss scale.

    Args:
        site: The `Site` of the division.
    """
    divided = [
        (node, node.left)
        for node in site.nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    ]
    divided += [
        (call, call.args[0])
        for call in site.calls("divide", "truediv", "divide_no_nan")
        if len(call.args) == 2
    ]
    if len(divided) == 1:
        ((node, gradient),) = divided
        yield Rewrite(
            "leave it to the optimizer to unscale",
            (site.replace(node, site.source(gradient)),),
            "each update is larger by the loss scale",
        )
