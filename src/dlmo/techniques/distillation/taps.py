"""Feature maps of a network without a change to its code: forward hooks, placed by what one forward pass shows."""

import copy
from collections.abc import Sequence

import torch
from torch import fx, nn

from dlmo.errors import UserError


class Taps:
    """Holds the output of some modules of a network from each forward pass that is learned from until `take`."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._maps: dict[int, torch.Tensor] = {}
        self._handles = [
            module.register_forward_hook(lambda module, inputs, output, index=index: self._keep(index, output))
            for index, module in enumerate(modules)
        ]

    def take(self) -> list[torch.Tensor]:
        """The maps of the last forward pass, float32 N x channels x H x W, in the modules' order."""
        maps = [self._maps[index].float() for index in range(len(self._handles))]
        self._maps.clear()
        return maps

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._maps.clear()

    def _keep(self, index: int, output: torch.Tensor) -> None:
        if torch.is_grad_enabled():
            self._maps[index] = output


def cut_at(network: fx.GraphModule, modules: Sequence[nn.Module]) -> fx.GraphModule:
    """The part of a traced network that computes the outputs of these modules, as a list, and nothing behind them."""
    part = fx.GraphModule(network, copy.deepcopy(network.graph))
    called = {part.get_submodule(node.target): node for node in part.graph.nodes if node.op == "call_module"}
    part.graph.output_node().args = ([called[module] for module in modules],)
    part.graph.eliminate_dead_code()
    part.recompile()
    return part


def stages(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[tuple[int, int], tuple[nn.Module, int]]:
    """The last module of each resolution and its output channels, by (height, width) of the map, large to small.

    input_shape: height, width, channels. Pooled maps (1 x 1) are no stage. A module called more than once counts
    where it was called last.
    """
    found: dict[tuple[int, int], tuple[nn.Module, int]] = {}

    def watch(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and max(output.shape[2:]) > 1:
            found[tuple(output.shape[2:])] = (module, output.shape[1])

    handles = [module.register_forward_hook(watch) for module in network.modules() if module is not network]
    first = next(network.parameters())
    height, width, channels = input_shape
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, height, width, device=first.device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return dict(sorted(found.items(), reverse=True))


def paired(
    reads: str, student: nn.Module, teacher: nn.Module, input_shape: tuple[int, int, int]
) -> list[tuple[tuple[nn.Module, int], tuple[nn.Module, int]]]:
    """(module, channels) of the student with (module, channels) of the teacher, shallow to deep.

    reads: `stages` is every map size that both have, `successive` the same and at least two, `middle` the middle one
    of them, `last` the last map of each, whatever their sizes.
    """
    own, theirs = stages(student, input_shape), stages(teacher, input_shape)
    if not own or not theirs:
        raise UserError("student or teacher has no feature maps: take a loss on answers, such as loss=kd")
    if reads == "last":
        return [(own[min(own)], theirs[min(theirs)])]
    common = [size for size in own if size in theirs]
    least = 2 if reads == "successive" else 1
    if len(common) < least:
        raise UserError(
            f"student and teacher share {len(common)} sizes of feature maps ({_sizes(own)} and {_sizes(theirs)}), "
            f"{least} needed: take a teacher with the student's strides, or a loss on answers, such as loss=kd"
        )
    if reads == "middle":
        common = [common[len(common) // 2]]
    return [(own[size], theirs[size]) for size in common]


def _sizes(found: dict[tuple[int, int], tuple[nn.Module, int]]) -> str:
    return ", ".join(f"{height}x{width}" for height, width in found)
