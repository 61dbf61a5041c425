"""Changes that keep NumPy and Python code inside of the graph."""

import ast

import keras

from keras_gradguard.advice.site import SAME, Edit, Rewrite
from keras_gradguard.source.reachable import called

_READ_OUT = ("numpy", "item", "tolist")
_VALUES = ("float", "int")
_ARRAYS = ("array", "asarray", "float32", "float64")
_LARGEST = {"max": "maximum", "min": "minimum"}
_NOT_WHOLE = "the value is no longer an integer"
_RENAMED = {
    "acos": "arccos",
    "asin": "arcsin",
    "atan": "arctan",
    "concatenate": "concatenate",
    "fabs": "abs",
    "pow": "power",
}


def leave_numpy(site):
    """Operations on tensors in place of NumPy, `math`, `.numpy()`, `float`."""
    for nodes in (site.nodes, site.around):
        edits = [e for node in nodes for e in _tensor_code(site, node)]
        if edits:
            is_cut_off = any(site.calls("int", nodes=nodes))
            effect = _NOT_WHOLE if is_cut_off else SAME
            yield Rewrite("use tensor operations", tuple(edits), effect)


def keep_tensor(site):
    """The tensor itself where its value was made into a constant."""
    names = ("constant", "convert_to_tensor", "Variable", "array", "asarray")
    for call in site.calls(*names):
        if call.args:
            edits = list(_without_call(site, call))
            for node in site.nodes:
                if node is not call:
                    edits += _tensor_code(site, node)
            yield Rewrite("use the tensor itself", tuple(edits), SAME)


def _tensor_code(site, node):
    """The edits that make one node an operation on tensors."""
    if not isinstance(node, ast.Call):
        return
    name, function = called(node), node.func
    if isinstance(function, ast.Attribute):
        holder = function.value
        if name in _READ_OUT and not node.args:
            # Only the part behind the tensor goes.
            yield _cut(site, holder, node)
            return
        module = _module_of(site, holder)
        if module in ("numpy", "numpy.linalg", "math"):
            if module == "numpy" and name in _ARRAYS and node.args:
                yield from _without_call(site, node)
                return
            known = _RENAMED.get(name, name)
            if hasattr(keras.ops, known):
                yield site.replace(function, site.ops(known))
            return
        is_read = isinstance(holder, ast.Call) and called(holder) in _READ_OUT
        if is_read and hasattr(keras.ops, str(name)):
            value = site.source(holder.func.value)
            rest = [value, *map(site.source, node.args)]
            rest += [f"{k.arg}={site.source(k.value)}" for k in node.keywords]
            yield site.replace(node, f"{site.ops(name)}({', '.join(rest)})")
        return
    if name in _VALUES and len(node.args) == 1:
        yield from _without_call(site, node)


def _cut(site, kept, node):
    """Drops what stands behind the kept part of a node."""
    whole, part = site.replace(node, ""), site.replace(kept, "")
    return Edit(part.end, whole.end, "")


def _without_call(site, call):
    """Leaves the first argument in place of a call."""
    whole, kept = site.replace(call, ""), site.replace(call.args[0], "")
    holder = site.parent(call)
    is_alone = isinstance(holder, (ast.Assign, ast.Return, ast.keyword)) or (
        isinstance(holder, ast.Call) and call in holder.args
    )
    if is_alone or site.operand(call.args[0]) == site.source(call.args[0]):
        yield Edit(whole.start, kept.start, "")
        yield Edit(kept.end, whole.end, "")
    else:
        yield site.replace(call.func, "")


def _module_of(site, node):
    """The module that a name of the file stands for, or `None`."""
    written = site.source(node)
    for alias, module in site.modules.items():
        if written == alias or written.startswith(f"{alias}."):
            return module + written[len(alias) :]
    return None


def on_tensors(site):
    """`where`, `maximum` and logical operations in place of Python's own."""
    edits = []
    for node in site.nodes:
        text = _as_operation(site, node)
        if text is not None:
            edits.append(site.replace(node, text))
            yield Rewrite("use a tensor operation", (edits[-1],), SAME)
        elif isinstance(node, ast.If):
            yield from _without_if(site, node)
    if len(edits) > 1:
        yield Rewrite("use tensor operations", tuple(edits), SAME)


def _as_operation(site, node):
    source, ops = site.source, site.ops
    if isinstance(node, ast.IfExp):
        parts = map(source, (node.test, node.body, node.orelse))
        return f"{ops('where')}({', '.join(parts)})"
    if isinstance(node, ast.BoolOp):
        kind = "and" if isinstance(node.op, ast.And) else "or"
        text = source(node.values[0])
        for value in node.values[1:]:
            text = f"{ops(f'logical_{kind}')}({text}, {source(value)})"
        return text
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return f"{ops('logical_not')}({source(node.operand)})"
    if isinstance(node, ast.Compare) and len(node.ops) == 2:
        values = [node.left, *node.comparators]
        pieces = [site.text_between(values[n], values[n + 1]) for n in (0, 1)]
        return f"{ops('logical_and')}({', '.join(pieces)})"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in _LARGEST and len(node.args) == 2:
            both = ", ".join(map(source, node.args))
            return f"{ops(_LARGEST[node.func.id])}({both})"
    return None


def without_wrapper(site):
    """The Python function itself in place of one op that runs it."""
    for call in site.calls("numpy_function", "py_function"):
        if len(call.args) < 2 or not isinstance(
            call.args[1], (ast.List, ast.Tuple)
        ):
            continue
        function, given = call.args[:2]
        name = site.source(function)
        if isinstance(function, ast.Attribute):
            known = _RENAMED.get(function.attr, function.attr)
            is_numpy = _module_of(site, function.value) == "numpy"
            if not is_numpy or not hasattr(keras.ops, known):
                continue
            name = site.ops(known)
        inside = ", ".join(map(site.source, given.elts))
        edits = [site.replace(call, f"{name}({inside})")]
        for node in site.nodes_of_function(name):
            edits += _tensor_code(site, node)
        yield Rewrite("call the function on tensors", tuple(edits), SAME)


def call_model(site):
    """The model as a function in place of `predict`."""
    for call in site.calls("predict", "predict_on_batch"):
        if call.args and isinstance(call.func, ast.Attribute):
            model = site.source(call.func.value)
            text = f"{model}({site.source(call.args[0])}, training=True)"
            yield Rewrite(
                "call the model",
                (site.replace(call, text),),
                "layers such as dropout run in training mode",
            )


def keep_result(site):
    """The result of a call under the name that went in."""
    for call in site.nodes:
        is_dropped = isinstance(site.parent(call), ast.Expr)
        if not (isinstance(call, ast.Call) and is_dropped and call.args):
            continue
        # That of an update is the new state of what it was called on.
        owner = getattr(call.func, "value", None)
        is_local = isinstance(owner, ast.Name) and site.assigned(owner.id)
        for name in (*([owner] if is_local else []), call.args[0]):
            if isinstance(name, ast.Name):
                text = f"{name.id} = {site.source(call)}"
                yield Rewrite(
                    "use the return value of the call",
                    (site.replace(call, text),),
                    "the value is now the return value",
                )


def _without_if(site, node):
    """An `if` of which each side returns or assigns one value."""
    yield from _without_else(site, node)
    later = site.next_statement(node)
    sides = [node.body, node.orelse or ([later] if later is not None else [])]
    if any(len(side) != 1 for side in sides):
        return
    one, other = (side[0] for side in sides)
    values = [getattr(side, "value", None) for side in (one, other)]
    if any(value is None for value in values):
        return
    test, *both = map(site.source, (node.test, *values))
    chosen = f"{site.ops('where')}({test}, {', '.join(both)})"
    if isinstance(one, ast.Return) and isinstance(other, ast.Return):
        text = f"return {chosen}"
    elif (
        isinstance(one, ast.Assign)
        and isinstance(other, ast.Assign)
        and node.orelse
        and [site.source(t) for t in one.targets]
        == [site.source(t) for t in other.targets]
    ):
        text = f"{site.source(one.targets[0])} = {chosen}"
    else:
        return
    last = other if not node.orelse else node
    edit = site.replace(node, text)
    edit = Edit(edit.start, site.replace(last, "").end, text)
    yield Rewrite("select with `where` instead of `if`", (edit,), SAME)


def _without_else(site, node):
    """An `if` that assigns one variable anew."""
    if node.orelse or len(node.body) != 1:
        return
    (one,) = node.body
    if isinstance(one, ast.Assign) and len(one.targets) == 1:
        name, value = one.targets[0], site.source(one.value)
    elif isinstance(one, ast.AugAssign):
        name = one.target
        sign = site.text_between(one.target, one.value)
        sign = sign[len(site.source(name)) : -len(site.source(one.value))]
        value = f"{site.source(name)} {sign.strip()[:-1]} "
        value += site.operand(one.value)
    else:
        return
    if not isinstance(name, ast.Name):
        return
    chosen = f"{site.ops('where')}({site.source(node.test)}, {value}"
    text = f"{name.id} = {chosen}, {name.id})"
    edit = site.replace(node, text)
    yield Rewrite("select with `where` instead of `if`", (edit,), SAME)


def without_text(site):
    """The number itself in place of its text and back."""
    written = list(site.calls("as_string", nodes=site.around))
    read = list(site.calls("to_number", nodes=site.around))
    calls = [call for call in (*written, *read) if call.args]
    is_here = any(site.covers(call) for call in calls)
    if written and read and is_here:
        numbers = [
            (call, one)
            for call in calls
            if not any(site.parent(call) is other for other in calls)
            and (one := _innermost(call, calls)) is not None
        ]
        edits = [site.replace(c, site.operand(one)) for c, one in numbers]
        yield Rewrite(
            "use the number itself",
            tuple(edits),
            "the value keeps all its digits",
        )


def _innermost(call, calls):
    """What a call is of, behind other calls of the same kinds."""
    node = call
    while any(node is one for one in calls):
        node = node.args[0]
    return node


def map_rows(site):
    """A function that is mapped over the rows in place of a loop."""
    for call in site.calls("len"):
        if len(call.args) == 1 and isinstance(call.func, ast.Name):
            size = f"{site.ops('shape')}({site.source(call.args[0])})[0]"
            text = f'{site.ops("cast")}({size}, "float32")'
            yield Rewrite(
                "read the number of rows as a tensor",
                (site.replace(call, text),),
                SAME,
            )
    statement = site.statement
    if isinstance(statement, ast.For):
        yield from _without_loop(site, statement)
        return
    for node in site.nodes:
        is_plain = isinstance(node, (ast.ListComp, ast.GeneratorExp))
        if is_plain and len(node.generators) == 1:
            (one,) = node.generators
            if not one.ifs:
                function = _function_of_row(site, statement, one, node.elt)
                edits = _mapped(site, statement, function, node)
                yield _of_rows(edits)


def _without_loop(site, loop):
    """A loop that adds one value for each row to a list or a sum."""
    if len(loop.body) != 1 or loop.orelse:
        return
    (body,) = loop.body
    call = getattr(body, "value", None)
    if isinstance(body, ast.AugAssign) and isinstance(body.op, ast.Add):
        if isinstance(body.value, (ast.List, ast.Tuple)):
            return
        function = _function_of_row(site, loop, loop, body.value)
        total = site.source(body.target)
        mapped = f"{site.ops('sum')}({function[1]}, axis=0)"
        text = f"{total} = {total} + {mapped}"
        edits = ()
    elif called(call) == "append" and len(call.args) == 1:
        rows = call.func.value
        made = site.assigned(site.source(rows))
        if len(made) != 1 or site.source(made[0]) != "[]":
            return
        function = _function_of_row(site, loop, loop, call.args[0])
        text = f"{site.source(rows)} = {function[1]}"
        empty = site.lines_of(made[0])
        start = site.line_start(made[0].lineno)
        edits = _of_tensor(site, site.source(rows))
        if empty.partition("#")[0].strip() == f"{site.source(rows)} = []":
            edits.append(Edit(start, start + len(empty), ""))
    else:
        return
    whole = site.replace(loop, f"{function[0]}{text}")
    yield _of_rows((whole, *edits))


def _of_rows(edits):
    return Rewrite("map a function over the rows", tuple(edits), SAME)


def _function_of_row(site, statement, loop, value):
    """`(definition, call)`: texts of a function and of its values on rows."""
    white, names = " " * statement.col_offset, site.names()
    name = next(n for n in ("of_row", "value_of_row") if n not in names)
    rows, target = loop.iter, site.source(loop.target)
    parts = rows.args if called(rows) == "zip" else [rows]
    given = ", ".join(map(site.source, parts))
    lines = [f"def {name}(row):", f"    {target} = row"]
    if isinstance(loop.target, ast.Name):
        lines = [f"def {name}({target}):"]
    else:
        given = f"({given})"
    lines += [f"    return {site.source(value)}", "", ""]
    text = f"\n{white}".join(lines)
    text = text.replace(f"\n{white}\n", "\n\n")
    return text, f"{site.ops('vectorized_map')}({name}, {given})"


def _mapped(site, statement, function, node):
    start = site.replace(statement, "").start
    yield Edit(start, start, function[0])
    holder = site.parent(node)
    text = function[1]
    if called(holder) in ("sum", "add_n") and len(holder.args) == 1:
        node, text = holder, f"{site.ops('sum')}({text}, axis=0)"
    elif called(holder) in ("stack", "convert_to_tensor"):
        if len(holder.args) == 1 and not holder.keywords:
            node = holder
    yield site.replace(node, text)
    if isinstance(site.parent(node), ast.Assign):
        yield from _of_tensor(site, site.source(statement.targets[0]))


def _of_tensor(site, name):
    """The edits of what reads a list that has become a tensor."""
    edits = []
    for node in site.reads_of(name):
        call = site.parent(node)
        if not isinstance(call, ast.Call) or call.args != [node]:
            continue
        if called(call) in ("stack", "convert_to_tensor"):
            if not call.keywords:
                edits.append(site.replace(call, name))
        elif called(call) in ("sum", "add_n") and not call.keywords:
            text = f"{site.ops('sum')}({name}, axis=0)"
            edits.append(site.replace(call, text))
        elif called(call) == "len":
            size = f"{site.ops('shape')}({name})[0]"
            text = f'{site.ops("cast")}({size}, "float32")'
            edits.append(site.replace(call, text))
    return edits
