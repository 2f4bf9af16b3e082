"""Block pruning: whole residual blocks are left out, so that the network has fewer layers, each as wide as before.

A residual block adds to its input what its branch computes, so without the branch the network still computes something
sensible (Veit, Wilber, Belongie: "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NeurIPS
2016, section 4). A layer that is gone takes no time at all, while one with half its channels often takes more than half
of the time. Blocks are found in the graph of the network's code, so that a user's own network needs no change.

How many blocks each stage loses follows from their shapes alone: where a stage's blocks are alike, size and latency are
known before any training. Which ones go is up to the images.
"""

import copy
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from dlmo.data.dataset import Split
from dlmo.errors import UserError
from dlmo.techniques.channel_pruning import file_layers
from dlmo.training import checkpoint
from dlmo.training.device import best_device
from dlmo.training.loop import predict

_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")
# Applied to their own output they change nothing.
_IDEMPOTENT = (nn.ReLU, nn.ReLU6)
# Training images that show what each block is worth.
_JUDGING_IMAGES = 512


@dataclass(frozen=True)
class Depth:
    """How much goes. ratio: share of the residual blocks left out, 0 to 1. macs: in its place the share of the
    multiply-accumulates kept at most; None for the ratio."""

    ratio: float
    macs: float | None


@dataclass(frozen=True)
class Block:
    """A residual block that can be left out.

    name: of its branch's first convolution or linear layer. layers: all modules of the branch, by name. stage:
    channels, height and width of the map that it adds to.
    """

    name: str
    layers: frozenset[str]
    stage: tuple[int, ...]


def leave_out(
    network: nn.Module, original: nn.Module, depth: Depth, images: Split, done: float = 1.0
) -> fx.GraphModule:
    """A copy of `network`, which is `original` or was made of it, with fewer residual blocks.

    images: the training images. Of a stage the blocks go first without which the loss on some of them grows least.
    done: how much of the whole way is reached hereafter, 0 to 1. Raises UserError where that is out of reach.
    """
    input_shape = images.images.shape[1:]
    whole = blocks_of(original, input_shape)
    if not whole:
        raise UserError(
            "prune_blocks: this network has no residual block that could be left out (x + branch(x), with a layer in "
            "the branch and maps of one shape); leave the step out"
        )
    costs = {name: shape.macs for name, shape in file_layers(network, input_shape)}
    # What is left of nested blocks may look like another one, which nobody counted.
    names = {block.name for block in whole}
    present = [block for block in blocks_of(network, input_shape) if block.name in names]
    if depth.macs is None:
        enough = _share_gone(depth.ratio * done, len(whole), len(present))
    else:
        before = sum(shape.macs for _, shape in file_layers(original, input_shape))
        least = sum(costs.values()) - sum(_cost(block, costs) for block in present)
        if least > depth.macs * before:  # in the end, so why begin
            raise UserError(
                f"prune_blocks: macs={depth.macs:.6g} is out of reach: without any of its {len(whole)} residual blocks "
                f"this network has {least / before:.3g} of its multiply-accumulates; allow more, or cut more channels"
            )
        enough = _few_left(before * (1 - (1 - depth.macs) * done))
    if enough(0, sum(costs.values())):
        return without(network, (), input_shape)
    order = _order(present, Counter(b.stage for b in whole), costs, _losses_without(network, present, images))
    left = itertools.accumulate((-_cost(block, costs) for block in order), initial=sum(costs.values()))
    count = next(gone for gone, macs in enumerate(left) if enough(gone, macs))
    return without(network, [block.name for block in order[:count]], input_shape)


def _share_gone(share: float, whole: int, present: int) -> Callable[[int, int], bool]:
    """Whether enough is gone, by how many blocks go now, where `share` of the whole network's shall have gone."""
    return lambda gone, macs: gone >= round(share * whole) - (whole - present)


def _few_left(most: float) -> Callable[[int, int], bool]:
    """Whether enough is gone, by the multiply-accumulates that are left, where `most` are allowed."""
    return lambda gone, macs: macs <= most


def blocks_of(network: nn.Module, input_shape: tuple[int, int, int]) -> list[Block]:
    """The innermost residual blocks in the order they run. input_shape: height, width, channels."""
    return [block for block, _, _ in _found(_graph(network), input_shape)]


def left_out_of(network: nn.Module, original: nn.Module, input_shape: tuple[int, int, int]) -> list[str]:
    """Names of the blocks that `original` has and `network`, made of it, has not."""
    kept = {block.name for block in blocks_of(network, input_shape)}
    return [block.name for block in blocks_of(original, input_shape) if block.name not in kept]


def without(network: nn.Module, names: Iterable[str], input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """A copy without these blocks, in evaluation mode; names of the other parameters stay.

    input_shape: height, width, channels.
    """
    graph = _graph(network)
    modules = dict(graph.named_modules())
    sums = {block.name: (total, position) for block, total, position in _found(graph, input_shape)}
    for name in names:
        total, position = sums[name]
        total.replace_all_uses_with(total.args[position])
        graph.graph.eliminate_dead_code()
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        kind = type(modules.get(node.target)) if before is not None else None
        if kind in _IDEMPOTENT and before.op == "call_module" and type(modules.get(before.target)) is kind:
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.graph.lint()
    return fx.GraphModule(graph, graph.graph).eval()  # with what the graph still uses alone, parameters too


def restored(path: Path, original: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """What `leave_out` made of `original`, from its weights."""
    tensors, _ = checkpoint.load(path)
    gone = [
        block.name
        for block in blocks_of(original, input_shape)
        if not any(name.startswith(f"{block.name}.") for name in tensors)
    ]
    network = without(original, gone, input_shape)
    network.load_state_dict(tensors)
    return network


def _graph(network: nn.Module) -> fx.GraphModule:
    """The network's code as a graph of its own, in which what passes its input on is no step.

    Activations write maps of their own: behind a sum that is gone they would write over what the block began with.
    """
    graph = fx.symbolic_trace(copy.deepcopy(network).eval())
    modules = dict(graph.named_modules())
    for module in modules.values():
        if hasattr(module, "inplace"):
            module.inplace = False
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.recompile()
    return graph


def _found(graph: fx.GraphModule, input_shape: tuple[int, int, int]) -> list[tuple[Block, fx.Node, int]]:
    """Each innermost block with its sum, and which of the two terms is what the branch starts from.

    Not among them: branches whose layers run several times, as their names would not tell which time is meant.
    """
    modules = dict(graph.named_modules())
    height, width, channels = input_shape
    ShapeProp(graph).propagate(torch.zeros(1, channels, height, width))
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    shared = {name for name, count in calls.items() if count > 1 and any(True for _ in modules[name].parameters())}
    found: list[tuple[Block, fx.Node, int]] = []
    sums_inside: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op not in ("call_function", "call_method") or node.target not in _SUMS or node.kwargs:
            continue
        if len(node.args) != 2 or not all(isinstance(term, fx.Node) for term in node.args):
            continue
        for position in (0, 1):
            source, end = node.args[position], node.args[1 - position]
            branch = _branch(source, end, node)
            called = [one.target for one in branch if one.op == "call_module"]
            layers = [name for name in called if isinstance(modules[name], nn.Conv2d | nn.Linear)]
            if not layers or shared & set(called) or any(one in sums_inside for one in branch):
                continue
            stage = tuple(source.meta["tensor_meta"].shape[1:])
            if stage != tuple(node.meta["tensor_meta"].shape[1:]):
                continue
            sums_inside.add(node)
            found.append((Block(layers[0], frozenset(called), stage), node, position))
            break
    return found


def _branch(source: fx.Node, end: fx.Node, total: fx.Node) -> list[fx.Node]:
    """What computes `end` from `source` alone and is used by `total` alone, in order; empty where that is not so."""
    inside: set[fx.Node] = set()
    waiting = [end]
    while waiting:
        node = waiting.pop()
        if node is source or node in inside:
            continue
        if node.op == "placeholder":
            return []
        inside.add(node)
        waiting += node.all_input_nodes
    if any(user is not total and user not in inside for node in inside for user in node.users):
        return []
    return [node for node in total.graph.nodes if node in inside]


def _order(
    present: Sequence[Block], before: Counter[tuple[int, ...]], macs: dict[str, int], losses: dict[str, float]
) -> list[Block]:
    """The blocks in the order they go: next is one of the stage that has kept most of its blocks, of several such
    stages where a block costs most; within a stage the one that is missed least."""
    waiting: dict[tuple[int, ...], list[Block]] = {}
    for block in sorted(present, key=lambda block: losses[block.name]):
        waiting.setdefault(block.stage, []).append(block)
    order = []
    while any(waiting.values()):
        stage = max(
            (stage for stage, blocks in waiting.items() if blocks),
            key=lambda stage: (len(waiting[stage]) / before[stage], _cost(waiting[stage][0], macs), stage),
        )
        order.append(waiting[stage].pop(0))
    return order


def _cost(block: Block, macs: dict[str, int]) -> int:
    """Multiply-accumulates."""
    return sum(macs.get(name, 0) for name in block.layers)


def _losses_without(network: nn.Module, blocks: Sequence[Block], images: Split) -> dict[str, float]:
    """The loss on some training images without each of the blocks, by its name."""
    part, device = images.spread(_JUDGING_IMAGES), best_device()  # spread, as they may be sorted by class
    labels = torch.from_numpy(part.labels).long()
    input_shape = images.images.shape[1:]
    found = {}
    for block in blocks:
        judged = without(network, [block.name], input_shape).to(device.name)
        logits = torch.from_numpy(predict(judged, part, device))
        found[block.name] = float(F.cross_entropy(logits, labels))
    return found
