"""`draw_graph`: what backward will walk, as text in a terminal and as a Mermaid diagram.

    with tensorlib.trace():  # which notes the modules; without it there are no boxes
        logits, loss = model(idx, targets)
    print(tensorlib.draw_graph(loss))
    print(tensorlib.draw_graph(loss, "h.0", depth=2).mermaid())

It reads the nodes of the tape, and what an observer noted about them; it computes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..autograd import Node, TensorBase
from .observer import Call
from .tables import WIDTH, shape_text

# So that a transformer block fits on a page, and no operation covers the title of its box.
_STYLE = """%%{init: {'flowchart': {'rankSpacing': 22, 'padding': 8, 'wrappingWidth': 400,
  'subGraphTitleMargin': {'bottom': 14}}}}%%"""


def draw_graph(tensor: TensorBase, module: str = "", depth: int | None = 1) -> Graph:
    """The operations that made `tensor` and through which gradients flow, the oldest first.

    module: the dotted name of a module, to draw its inside only; "" for everything.
    depth: how many levels of modules are open. One below is folded into a single item, as is any
        that ran a single operation; None opens all others.
    RuntimeError if no recorded operation made the tensor; KeyError for a module that ran none.
    """
    if tensor.node is None:
        raise RuntimeError("draw_graph: no recorded operation made this tensor")
    return Graph(tensor, module, depth)


@dataclass(eq=False)
class Item:
    """What is drawn as one: an operation; a module that is folded; or what comes from outside, a
    leaf for instance, which has no operation.

    boxes: the open modules around it, from the outermost. folded: the module, if it is one.
    operations, outputs: how many it ran, and how many results it has (counted for operations only).
    inputs: the items that it computes with, and which output of theirs. shapes: of what is taken
    from it.
    """

    number: int
    label: str
    boxes: tuple[Call, ...] = ()
    folded: Call | None = None
    operations: int = 0
    outputs: int = 1
    inputs: dict[tuple[Item, int], None] = field(default_factory=dict)
    shapes: dict[tuple[int, ...], None] = field(default_factory=dict)

    @property
    def size(self) -> str:
        return ", ".join(map(shape_text, self.shapes))

    @property
    def title(self) -> str:
        return f"{self.label}, {self.operations} operations" if self.operations > 1 else self.label


class Graph:
    """What `draw_graph` returns. Printed it is text; a notebook shows the diagram.

    items: in the order in which they ran; sources: what comes from outside of them.
    """

    def __init__(self, tensor: TensorBase, module: str, depth: int | None) -> None:
        nodes = _nodes(tensor.node)
        calls = {node: c for node in nodes if (c := _calls(node, module)) is not None}
        if not calls:
            raise KeyError(f"draw_graph: no module {module!r} ran here under a trace")
        of_node = _items(calls, depth)
        self.items = list(dict.fromkeys(of_node.values()))
        self.watched = any(calls.values())
        names = _parameter_names(calls.values())
        of_source: dict[Any, Item] = {}
        for node in nodes:
            item = of_node.get(node)
            for source, output, shape, _ in filter(None, node.edges):
                taken = of_node.get(source)
                if taken is None and item is not None:
                    name = names.get(id(source))
                    if name and item.folded and name.startswith(item.folded.prefix):
                        continue  # a folded module keeps its parameters to itself
                    kind = "input" if isinstance(source, Node) else "leaf"
                    name = name or f"{kind} {len(of_source) + 1}"
                    taken = of_source.setdefault(source, Item(len(of_source) + 1, name))
                if taken is not None and taken is not item:
                    taken.shapes[shape] = None
                    if item is not None:
                        item.inputs[taken, output if taken.outputs > 1 else 0] = None
        if tensor.node in of_node:
            of_node[tensor.node].shapes[tensor.array.shape] = None
        self.sources = list(of_source.values())

    def __repr__(self) -> str:
        """A line for each item: its number, its name, the shape of its result, and behind the arrow
        the numbers of the items that it computes with ([1] is the second of several results)."""
        rows: list[tuple[str, str, str]] = []
        for depth, thing in self._boxed():
            rails = "│ " * depth
            if thing is None:
                rows.append((f"    {rails}└", "", ""))
            elif isinstance(thing, Item):
                inputs = ", ".join(_reference(*pair) for pair in thing.inputs)
                left = f"{thing.number:>3} {rails}{thing.title}"
                rows.append((left, thing.size, f"← {inputs}" if inputs else ""))
            else:
                rows.append((f"    {rails}┌ {thing}", "", ""))
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [f"{a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows]
        if not self.watched:
            lines.append("(for boxes of modules, run the forward inside `with tensorlib.trace():`)")
        return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…" for line in lines)

    def mermaid(self) -> str:
        """The graph in the language of mermaid.js, which GitHub draws in a block ```mermaid."""
        lines = [_STYLE, "flowchart TB"]
        lines += [f'  s{s.number}(["{s.label} · {s.size}"])' for s in self.sources]
        boxes = 0
        for depth, thing in self._boxed():
            indent = "  " * (depth + 1)
            if thing is None:
                lines.append(f"{indent}end")
            elif isinstance(thing, Item):
                lines.append(f'{indent}n{thing.number}["{thing.title} · {thing.size}"]')
            else:
                boxes += 1
                lines.append(f'{indent}subgraph b{boxes}["{thing}"]')
                lines.append(f"{indent}  direction TB")
        for item in self.items:
            for source, output in item.inputs:
                letter = "n" if source.operations else "s"
                arrow = f"-->|{output}|" if source.outputs > 1 else "-->"
                lines.append(f"  {letter}{source.number} {arrow} n{item.number}")
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return f"```mermaid\n{self.mermaid()}\n```"

    def _boxed(self) -> Iterator[tuple[int, Item | str | None]]:
        """Each item with its depth; the title of a box where it begins, None where it ends."""
        before: tuple[Call, ...] = ()
        for boxes, item in [*((item.boxes, item) for item in self.items), ((), None)]:
            common = sum(a is b for a, b in zip(before, boxes))
            for depth in reversed(range(common, len(before))):
                yield depth, None
            for depth in range(common, len(boxes)):
                yield depth, _label(boxes[depth], boxes[:depth])
            if item is not None:
                yield len(boxes), item
            before = boxes


def _nodes(last: Node | None) -> list[Node]:
    """All nodes that lead to `last`, the oldest first."""
    found: set[Node] = set()
    stack = [last] if last else []
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            sources = [edge[0] for edge in node.edges if edge is not None]
            stack += [source for source in sources if isinstance(source, Node)]
    return sorted(found, key=lambda node: node.number)


def _calls(node: Node, module: str) -> tuple[Call, ...] | None:
    """The calls of modules around a node, from that of `module` on; None if that is not there."""
    calls = node.origin.calls if node.origin else ()
    if not module:
        return calls
    return next((calls[i:] for i, call in enumerate(calls) if str(call) == module), None)


def _items(calls: dict[Node, tuple[Call, ...]], depth: int | None) -> dict[Node, Item]:
    """The item as which each node is drawn."""
    sizes = Counter(call for around in calls.values() for call in around)
    items: dict[Any, Item] = {}  # by the node, or by the call of a folded module
    result = {}
    for node, around in calls.items():
        opened = sum(sizes[call] > 1 for call in around[:depth])
        key, boxes = (around[opened] if opened < len(around) else node), around[:opened]
        if key not in items:
            folded = key if isinstance(key, Call) else None
            label = _label(folded, boxes) if folded else node.name
            items[key] = Item(len(items) + 1, label, boxes, folded)
            items[key].outputs = 1 if folded else node.outputs
        items[key].operations += 1
        result[node] = items[key]
    return result


def _label(call: Call, boxes: tuple[Call, ...]) -> str:
    """`attn: CausalSelfAttention`, the name as seen from the box around it."""
    kind = type(call.module).__name__
    name = call.path.removeprefix(boxes[-1].prefix) if boxes else call.path
    return f"{name}: {kind}" if name else kind


def _parameter_names(calls: Iterable[tuple[Call, ...]]) -> dict[int, str]:
    """The dotted names of the parameters of all modules that were called first, by their ids."""
    roots = {around[0].root for around in calls if around}
    return {id(p): name for root in roots for name, p in root.named_parameters()}


def _reference(item: Item, output: int) -> str:
    if not item.operations:
        return f"{item.label} ({item.size})"
    return f"{item.number}[{output}]" if item.outputs > 1 else str(item.number)
