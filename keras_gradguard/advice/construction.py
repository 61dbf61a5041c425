"""The code that has made the layers of a model, as syntax to rewrite."""

import ast
import dataclasses
import inspect

from keras_gradguard.advice.site import Site
from keras_gradguard.graph.ops import RESHAPING
from keras_gradguard.records.finding import Place
from keras_gradguard.source.declared import Declarations


class ModelCode:
    """The model of a step, as the code that has made it.

    Its layers are asked for once the model is there: where two calls may have
    made one of them, no call has.

    Args:
        finding: The `Finding`.
        step: The `Step`.
    """

    def __init__(self, finding, step):
        self.finding, self.step = finding, step
        self.declarations = Declarations(step.model)
        self._sites = {}

    @property
    def can_draw(self):
        """Whether the step can run with other weights."""
        evidence = self.step.evidence
        return evidence.has_data and not evidence.is_tracing

    @property
    def layer(self):
        """The one layer that the finding names, or `None`."""
        found = self.declarations.layers_at(self.finding.layer)
        return found[0] if len(found) == 1 else None

    def site(self, file, line):
        """Returns the `Site` of a line; those of one file have one text."""
        place = Place(file, line)
        if place not in self._sites:
            finding = dataclasses.replace(self.finding, place=place)
            self._sites[place] = Site(finding)
        return self._sites[place]

    def made(self, layer):
        """Returns the `Construction` of a layer, `None` if it is not known."""
        found = None
        if layer is not None and is_of_keras(layer):
            found = self.declarations.construction(layer)
        if found is None:
            return None
        file, call = found
        layers = self.declarations.made_by(call, layer)
        site = self.site(file, call.lineno)
        call = site.same(call)
        if call is None or not layers:
            return None
        made = Construction(site, call, layers)
        return None if made.is_open else made

    def returned(self, layers):
        """Returns the `Tensor`s that layers return in the traced step."""
        return [
            tensor
            for own, tensors in self.step.evidence.traced().returned()
            if any(own is layer for layer in layers)
            for tensor in tensors
        ]

    def is_gate(self, layers):
        """Returns whether layers may scale another value of the model's."""
        trace = self.step.evidence.traced()
        if trace.error is not None:
            return True
        batch = {tensor for _, tensor in trace.batch}
        waiting = self.returned(layers)
        while waiting:
            tensor = waiting.pop()
            for op in tensor.consumers():
                if op.type in RESHAPING:
                    waiting += op.outputs
                if op.type != "Mul":
                    continue
                others = [other for other in op.inputs if other is not tensor]
                before = trace.graph.ancestors(others)
                inputs = {i for one in before for i in one.inputs}
                if not batch.isdisjoint({*others, *inputs}):
                    return True
        return False

    def variables(self):
        """Returns the variables that the finding hits, in the model's order."""
        hit = set(self.finding.variables)
        both = zip(self.step.variables, self.step.paths, strict=True)
        return [variable for variable, path in both if path in hit]


def is_of_keras(layer):
    """Returns whether Keras brings the class of a layer.

    One of the user's may use its arguments otherwise.

    Args:
        layer: A layer.
    """
    return (type(layer).__module__ or "").startswith("keras.")


@dataclasses.dataclass(frozen=True)
class Construction:
    """A call that has made layers.

    Args:
        site: The `Site` of the call.
        call: The `ast.Call`, of the site's tree.
        layers: The layers of the model that it has made.
    """

    site: Site
    call: ast.Call
    layers: list

    @property
    def is_open(self):
        """Whether the text does not show what the call is given."""
        return any(isinstance(a, ast.Starred) for a in self.call.args) or any(
            keyword.arg is None for keyword in self.call.keywords
        )

    @property
    def _parameters(self):
        known = inspect.signature(type(self.layers[0]).__init__).parameters
        return {name: p for name, p in known.items() if name != "self"}

    def argument(self, name):
        """Returns the node of an argument, `None` where it is not given."""
        given = dict(zip(self._parameters, self.call.args, strict=False))
        given |= {k.arg: k.value for k in self.call.keywords}
        return given.get(name)

    def default(self, name):
        """Returns the default of a parameter that has one, else `None`."""
        known = self._parameters.get(name)
        default = getattr(known, "default", None)
        return None if default is inspect.Parameter.empty else default

    def given(self, name, text):
        """Returns the `Edit` that gives the call an argument."""
        node = self.argument(name)
        if node is None:
            return self.site.insert(self.call, f"{name}={text}")
        return self.site.replace(node, text)

    def attributes(self, name, value):
        """Returns an attribute for each layer, as `Rewrite` takes them."""
        return tuple((layer, name, value) for layer in self.layers)
