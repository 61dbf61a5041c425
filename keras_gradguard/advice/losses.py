"""Changes of a loss: whether it expects logits, and how it is scaled."""

import ast

from keras_gradguard.advice.site import Edit, Rewrite
from keras_gradguard.model.losses import compiled_loss_objects
from keras_gradguard.source.reachable import called

_APPLYING = ("apply", "apply_gradients")


def take_logits(model):
    """`from_logits=True` for a cross-entropy that gets scores.

    Args:
        model: The `ModelCode`.
    """
    yield from _from_logits(
        model,
        True,
        "tell the loss that it gets scores",
        "the loss is the cross-entropy of the scores",
    )


def take_probabilities(model):
    """`from_logits=False` for a cross-entropy that gets probabilities.

    Args:
        model: The `ModelCode`.
    """
    yield from _from_logits(
        model,
        False,
        "tell the loss that it gets probabilities",
        "the loss is the cross-entropy of the probabilities",
    )


def _from_logits(model, value, text, effect):
    place = model.finding.place
    if place.line is None:
        return
    found = [
        loss
        for loss in compiled_loss_objects(model.step.model)
        if type(loss).__module__.startswith("keras.")
        and "from_logits" in vars(loss)
        and model.declarations.loss(loss) == place
    ]
    site = model.site(place.file, place.line)
    calls = [
        node
        for node in site.nodes
        if isinstance(node, ast.Call)
        and called(node) in {type(loss).__name__ for loss in found}
    ]
    if len(found) != 1 or len(calls) != 1:
        return
    (loss,), (call,) = found, calls
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        # The text does not show which argument is which.
        return
    given = [k.value for k in call.keywords if k.arg == "from_logits"]
    edit = site.insert(call, f"from_logits={value}")
    if given:
        edit = site.replace(given[0], str(value))
    known = {**vars(loss)["_fn_kwargs"], "from_logits": value}
    attributes = (
        (loss, "from_logits", value),
        (loss, "_fn_kwargs", known),
    )
    yield site, Rewrite(text, (edit,), effect, attributes)


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
