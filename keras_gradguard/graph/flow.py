"""How a gradient flows from a loss back to the variables.

The walk takes the path with the fewest cuts from the loss to each value.
A value at distance 0 gets a gradient; at a greater one it does not, and the
cut nearest to it on such a path is the first cause.
"""

import collections
import dataclasses
import heapq

from keras_gradguard.graph.edges import Edge, Writers, edges, length_edges
from keras_gradguard.graph.ops import Context, Value

# A condition or an index is a cause only where no other path is left.
_SELECTION_COST = 2
# And what chooses a branch, only where nothing in the branch is left.
_DECISION_COST = 4


@dataclasses.dataclass(frozen=True)
class Cut:
    """The place where a gradient ends.

    Args:
        edge: The edge that passes nothing on.
        path: Values from the loss to the cut op's output, the loss first.
        beyond: The further cuts between this one and the loss.
    """

    edge: Edge
    path: tuple[Value, ...]
    beyond: tuple[Edge, ...]

    @property
    def key(self):
        """What makes two cuts the same one: the op, in whatever call."""
        return cut_key(self.edge)


def cut_key(edge):
    """Returns what makes two edges the same cut."""
    return id(edge.op)


class Flow:
    """The gradient's ways back from a loss.

    Args:
        graph: The graph that holds the loss.
        losses: Tensors of `graph` to start from, or `Value`s of one run of
            it, where they are made in the body of a function.
        stops: Tensors of `graph` that the walk reaches and does not pass.
        branch: See `edges.edges`.
        state: Whether a value carried through a variable, or in the length
            of a tensor, counts as a way.
    """

    def __init__(self, graph, losses, stops=(), branch=None, state=False):
        inside = [one for one in losses if isinstance(one, Value)]
        self.root = inside[0].context.root if inside else Context(graph)
        self._branch = branch
        self._writers = Writers(self.root) if state else None
        self._distance = {}
        self._arrivals = collections.defaultdict(list)
        self._order = []
        self._nearest = {}
        self._walk(losses, {self.value(tensor).key for tensor in stops})
        self._find_nearest()

    def value(self, tensor):
        """Returns a tensor of the root graph as a `Value`."""
        return Value(self.root, tensor)

    def distance(self, tensor):
        """Returns the number of cuts before a tensor of the root graph.

        Args:
            tensor: A tensor of the root graph.

        Returns:
            0 if a gradient reaches it, `inf` if the loss does not depend on
            it at all.
        """
        return self._distance.get(self.value(tensor).key, float("inf"))

    def cuts(self, tensor):
        """Returns the cuts nearest to a tensor of the root graph."""
        nearest = self._nearest.get(self.value(tensor).key, {})
        return [self._cut(edge, after) for edge, after in nearest.values()]

    def reached(self, value):
        """Returns whether the loss depends on a value, gradient or not."""
        return value.key in self._distance

    def _walk(self, losses, stops):
        queue, done, count = [], set(), 0
        for loss in losses:
            start = loss if isinstance(loss, Value) else self.value(loss)
            self._distance[start.key] = 0
            queue.append((0, count := count + 1, start))
        while queue:
            distance, _, value = heapq.heappop(queue)
            if value.key in done:
                continue
            done.add(value.key)
            self._order.append(value)
            if value.key in stops:
                continue
            for edge in self._edges(value):
                reached = distance + _cost(edge)
                key = edge.source.key
                self._arrivals[key].append((value, edge, reached))
                if reached < self._distance.get(key, float("inf")):
                    self._distance[key] = reached
                    count += 1
                    heapq.heappush(queue, (reached, count, edge.source))

    def _edges(self, value):
        found = edges(value, self._branch)
        if self._writers is not None:
            found += self._writers.edges(value)
            found += length_edges(value)
        return found

    def _shortest(self, value):
        distance = self._distance[value.key]
        for later, edge, reached in self._arrivals[value.key]:
            if reached == distance:
                yield later, edge

    def _find_nearest(self):
        """Spreads, from the loss outward, which cuts come last."""
        changed = any(self._distance.values())
        while changed:
            changed = False
            for value in self._order:
                found = self._nearest.setdefault(value.key, {})
                size = len(found)
                for later, edge in self._shortest(value):
                    if _cost(edge):
                        found.setdefault(cut_key(edge), (edge, later))
                    else:
                        for key, cut in self._nearest.get(
                            later.key, {}
                        ).items():
                            found.setdefault(key, cut)
                changed |= len(found) != size

    def _cut(self, edge, value):
        path, crossed = self._way(value)
        return Cut(edge, tuple(reversed(path)), tuple(crossed))

    def path(self, tensor):
        """Returns the values from the loss to a tensor, the loss first."""
        return tuple(reversed(self._way(self.value(tensor))[0]))

    def _way(self, value):
        path, seen, crossed = [value], {value.key}, []
        while True:
            steps = (
                s for s in self._shortest(path[-1]) if s[0].key not in seen
            )
            step = next(steps, None)
            if step is None:
                return path, crossed
            later, edge = step
            if _cost(edge) and not edge.selects:
                crossed.append(edge)
            path.append(later)
            seen.add(later.key)


def _cost(edge):
    if edge.is_open:
        return 0
    if edge.selects:
        return _DECISION_COST if edge.decides else _SELECTION_COST
    # What is an integer or a truth value already was cut earlier.
    return int(edge.is_state or edge.source.tensor.carries_gradient)


def flows_to(loss, tensors):
    """Returns whether a gradient reaches one of `tensors` from `loss`.

    Args:
        loss: A tensor.
        tensors: Tensors of its graph; the walk does not pass them.
    """
    flow = Flow(loss.op.graph, [loss], stops=tensors)
    return any(flow.distance(tensor) == 0 for tensor in tensors)
