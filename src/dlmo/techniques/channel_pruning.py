"""Channel pruning: whole channels are cut out, so that what remains is a smaller dense network.

Which layers must lose the same channels (a sum couples its terms, a depthwise convolution its input) is read off the
dependency graph of Torch-Pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023,
arXiv:2301.12900), which also does the cutting. How many channels each layer keeps is decided here.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from dlmo.data.dataset import Split
from dlmo.errors import UserError
from dlmo.networks.counting import layers_of
from dlmo.networks.shapes import LayerShape
from dlmo.techniques.fake_quantization import fold_batch_norm
from dlmo.training import checkpoint
from dlmo.training.device import Device, memory_format
from dlmo.training.loop import to_network_input

# What a channel is ranked by; the names of Torch-Pruning's classes, imported when used.
CRITERIA = {
    "magnitude": "GroupMagnitudeImportance",  # L2 norm of all weights that go with the channel
    "taylor": "GroupTaylorImportance",  # first-order change of the loss (Molchanov et al., CVPR 2019)
    "bn_scale": "BNScaleImportance",  # BatchNorm's factor (Liu et al., "Network Slimming", ICCV 2017)
    "lamp": "LAMPImportance",  # magnitude over what is left of its layer (Lee et al., ICLR 2021)
}
# Of every layer at least this share stays: a ranking over all layers must not cut the network in two.
_LEAST_KEPT = 0.1
# Narrower layers are left alone; among them is whatever works on single colours.
_NARROWEST = 4
_BISECTIONS = 10
# A group of layers that saves nothing (a flat stretch of a latency table) is cut last.
_LEAST_SAVED = 1e-9
_GRADIENT_BATCHES, _GRADIENT_BATCH_SIZE = 8, 64


@dataclass(frozen=True)
class Limit:
    """What a cut network may cost at most, and the cost that steers the cut.

    option: what the user limits, such as `size`. most: of the whole network, in `unit`. cost: of one layer. rest: of
    what no cut changes.
    """

    option: str
    most: float
    unit: str
    cost: Callable[[LayerShape], float]
    rest: float = 0.0


@dataclass(frozen=True)
class Target:
    """What is cut, and by which rule.

    ratio: share of the channels removed, 0 to 1. limit: in place of it, what is to be reached; None for the ratio.
    criterion: a name in CRITERIA. scope: `global` ranks the channels of all layers together, under a limit by
    importance lost per cost saved; `layer` takes the same share of every layer. round_to: a layer keeps a multiple of
    so many channels, as kernels like them; of half, a quarter, ... of it where it was less than twice as wide.
    """

    ratio: float
    limit: Limit | None
    criterion: str
    scope: str
    round_to: int


def cut(network: nn.Module, original: nn.Module, target: Target, images: Split, done: float = 1.0) -> nn.Module:
    """A smaller copy of `network`, which is `original` or was cut from it.

    images: the training images, for their shape and for criteria that look at gradients.
    done: how much of the whole cut is reached hereafter, 0 to 1. Widths are rounded by the last cut only, as rounding
    each would undo small ones; those before it leave what that rounding will keep: a channel less, and it would have to
    go on to the next multiple.
    """
    height, width, channels = input_shape = images.images.shape[1:]
    sample = torch.zeros(1, channels, height, width)
    groups = _groups(network, sample, target.criterion, images)
    widths = {name: original.get_submodule(name).weight.shape[0] for name in groups}
    ranks = {name: group.scores for name, group in groups.items()}
    costs = None
    if target.limit is not None:
        costs = _Costs(file_layers(network, input_shape), groups, target.limit)
        if target.scope == "global":
            ranks = {name: _lost(group) / costs.per_channel(name, target.round_to) for name, group in groups.items()}

    def kept(share: float, multiple: int) -> dict[str, int]:
        """Channels of each group when about this share of all goes."""
        counts = _counts(ranks, share, target.scope)
        return {name: _rounded(counts[name], len(ranks[name]), widths[name], multiple) for name in groups}

    def reached(done: float, multiple: int) -> dict[str, int]:
        """Channels of each group when so much of the whole cut is done."""
        if costs is None:
            wanted = sum(widths.values()) * (1 - target.ratio * done)
            return kept(max(0.0, 1 - wanted / sum(map(len, ranks.values()))), multiple)
        whole = total_cost(original, input_shape, target.limit)
        most = whole - max(0.0, whole - target.limit.most) * done
        return _within(most, partial(kept, multiple=multiple), costs, target.limit)

    counts = reached(1.0, target.round_to)
    if done < 1:
        counts = {name: max(count, counts[name]) for name, count in reached(done, 1).items()}
    smaller = _without(network, sample, {name: ranks[name].argsort()[: -counts[name]] for name in groups})
    _check_rebuilt(smaller, original, sample)
    return smaller


def total_cost(network: nn.Module, input_shape: tuple[int, int, int], limit: Limit) -> float:
    """What a network costs as a whole. input_shape: height, width, channels."""
    return limit.rest + sum(limit.cost(shape) for _, shape in file_layers(network, input_shape))


def file_layers(network: nn.Module, input_shape: tuple[int, int, int]) -> list[tuple[str, LayerShape]]:
    """The layers as the file will have them: a BatchNorm that no convolution can take up is one of its own."""
    return layers_of(fold_batch_norm(network), input_shape)


def shapes_of(network: nn.Module, original: nn.Module) -> dict[str, list[int]]:
    """Shapes of the parameters and buffers that differ from the original's, by name."""
    before = original.state_dict()
    return {
        name: list(tensor.shape)
        for name, tensor in network.state_dict().items()
        if name in before and before[name].shape != tensor.shape
    }


def with_shapes(original: nn.Module, shapes: dict[str, list[int]]) -> nn.Module:
    """A copy of the uncut network with parameters and buffers of these shapes, their values unset."""
    network = copy.deepcopy(original)
    for name, shape in shapes.items():
        owner_name, _, leaf = name.rpartition(".")
        owner = network.get_submodule(owner_name)
        old = getattr(owner, leaf)
        new = torch.zeros(shape, dtype=old.dtype)
        setattr(owner, leaf, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    for name in {name.rpartition(".")[0] for name in shapes}:
        _match_weight(network.get_submodule(name))
    return network


def _match_weight(layer: nn.Module) -> None:
    """Bring a layer's own record of its width in line with its new weight."""
    if isinstance(layer, nn.Conv2d):
        outputs, inputs = layer.weight.shape[:2]
        if _is_depthwise(layer):
            layer.groups = outputs
        layer.out_channels, layer.in_channels = outputs, inputs * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
        layer.num_features = len(layer.running_mean)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
    else:
        raise UserError(f"prune_channels: cannot cut a layer of type {type(layer).__name__}; leave the step out")


def _is_depthwise(layer: nn.Conv2d) -> bool:
    return 1 < layer.groups == layer.in_channels == layer.out_channels


def restored(path: Path, original: nn.Module) -> nn.Module:
    """What `cut` made of `original`, from its weights."""
    tensors, _ = checkpoint.load(path)
    whole = original.state_dict()
    changed = {name: list(tensor.shape) for name, tensor in tensors.items() if tensor.shape != whole[name].shape}
    network = with_shapes(original, changed)
    network.load_state_dict(tensors)
    return network


def _check_rebuilt(network: nn.Module, original: nn.Module, sample: torch.Tensor) -> None:
    """The store keeps shapes and weights alone: they must give the same network again."""
    rebuilt = with_shapes(original, shapes_of(network, original))
    rebuilt.load_state_dict(network.state_dict())
    image = torch.rand(sample.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.allclose(rebuilt.eval()(image), network.eval()(image), rtol=1e-4, atol=1e-5):
            raise RuntimeError("a network rebuilt from its shapes computes other scores than the cut one")


def _graph(network: nn.Module, sample: torch.Tensor):
    import torch_pruning

    return torch_pruning.DependencyGraph().build_dependency(network.eval(), sample)


@dataclass(frozen=True)
class _Group:
    """Layers that must lose the same channels.

    scores: how much each channel matters, float, N. writes, reads: which layers, by name, have these channels as
    outputs and as inputs, and how many times over (a linear layer behind a map of 2 x 2 reads each 4 times).
    """

    scores: torch.Tensor
    writes: dict[str, int]
    reads: dict[str, int]


def _groups(network: nn.Module, sample: torch.Tensor, criterion: str, images: Split) -> dict[str, _Group]:
    """The groups by the name of their first layer.

    Not among them: the layer whose channels are the classes, and grouped convolutions other than depthwise ones.
    """
    from torch_pruning.pruner import importance

    network = copy.deepcopy(network).requires_grad_()
    if criterion == "taylor":
        _accumulate_gradients(network, images)
    names = {module: name for name, module in network.named_modules()}
    rank = getattr(importance, CRITERIA[criterion])()
    found = {}
    graph = _graph(network, sample)
    for group in graph.get_all_groups([_last_layer(network, sample)], (nn.Conv2d, nn.Linear)):
        layers = [dependency.target.module for dependency, _ in group]
        grouped = any(isinstance(m, nn.Conv2d) and m.groups > 1 and not _is_depthwise(m) for m in layers)
        root = layers[0]
        width = root.weight.shape[0]
        if grouped or width < _NARROWEST:
            continue
        scores = rank(group)
        if scores is None:  # no BatchNorm there to rank by
            continue
        writes: Counter[str] = Counter()
        reads: Counter[str] = Counter()
        for dependency, indices in group:
            name = names.get(dependency.target.module)
            if name is not None:
                side = writes if graph.is_out_channel_pruning_fn(dependency.handler) else reads
                side[name] += len(indices) // width
        found[names[root]] = _Group(scores.detach(), dict(writes), dict(reads))
    if not found:
        raise UserError(f"prune_channels: this network has no layer that can be cut by criterion={criterion}")
    return found


class _Costs:
    """What a network would cost with fewer channels, without cutting it."""

    def __init__(self, layers: list[tuple[str, LayerShape]], groups: dict[str, _Group], limit: Limit) -> None:
        self._layers, self._groups, self._limit = layers, groups, limit

    def total(self, counts: dict[str, int]) -> float:
        """Of the whole network, each group with so many channels; all of them where none are given."""
        fewer_out: Counter[str] = Counter()
        fewer_in: Counter[str] = Counter()
        for name, count in counts.items():
            group = self._groups[name]
            for fewer, times in ((fewer_out, group.writes), (fewer_in, group.reads)):
                for layer, each in times.items():
                    fewer[layer] += each * (len(group.scores) - count)
        total = self._limit.rest
        for name, shape in self._layers:
            outputs = shape.outputs - fewer_out[name]
            inputs = outputs if shape.kind == "depthwise" else shape.inputs - fewer_in[name]
            total += self._limit.cost(shape.of(inputs, outputs))
        return total

    def per_channel(self, name: str, step: int) -> float:
        """What one channel of a group saves: the mean over the next `step`, at most half of them."""
        present = len(self._groups[name].scores)
        step = min(step, present // 2)
        return max(self.total({}) - self.total({name: present - step}), _LEAST_SAVED) / step


def _lost(group: _Group) -> torch.Tensor:
    """What each channel's loss means to the network, comparable between groups.

    A channel counts by its share of what its group then still has, as LAMP scores do: so many cuts of one group weigh
    more than as many spread over several. Every layer that writes into the group loses that share.
    """
    values, order = group.scores.sort()
    remaining = values.flip(0).cumsum(0).flip(0).clamp_min(1e-12)
    shares = torch.empty_like(values)
    shares[order] = values / remaining
    return shares * len(group.writes)


def _within(most: float, kept: Callable[[float], dict[str, int]], costs: _Costs, limit: Limit) -> dict[str, int]:
    """Channels by group when as few go as the limit allows. Raises UserError where none suffice."""
    if costs.total(kept(0.0)) <= most:
        return kept(0.0)
    least = costs.total(kept(1.0))
    if least > most:
        raise UserError(
            f"prune_channels: {limit.option}={limit.most:.6g}{limit.unit} is out of reach: with the fewest channels "
            f"this network has {least:.6g}{limit.unit}; allow more or take a smaller network"
        )
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if costs.total(kept(middle)) <= most else (middle, high)
    return kept(high)


def _accumulate_gradients(network: nn.Module, images: Split) -> None:
    """Gradients of the loss over a few batches of the training images, in the parameters' `grad`."""
    layout = memory_format(network, Device("cpu", None))
    network = network.eval().to(memory_format=layout)
    images = images.spread(_GRADIENT_BATCHES * _GRADIENT_BATCH_SIZE)  # they may be sorted by class
    for start in range(0, len(images), _GRADIENT_BATCH_SIZE):
        batch = slice(start, start + _GRADIENT_BATCH_SIZE)
        inputs = to_network_input(torch.from_numpy(images.images[batch])).clone(memory_format=layout)
        logits = network(inputs)
        F.cross_entropy(logits, torch.from_numpy(images.labels[batch])).backward()


def _last_layer(network: nn.Module, sample: torch.Tensor) -> nn.Module:
    """The convolution or linear layer that runs last: its channels are the classes."""
    ran: list[nn.Module] = []
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(lambda layer, _inputs, _output: ran.append(layer)) for layer in layers]
    with torch.no_grad():
        network.eval()(sample)
    for hook in hooks:
        hook.remove()
    return ran[-1]


def _counts(scores: dict[str, torch.Tensor], share: float, scope: str) -> dict[str, int]:
    """How many channels each layer keeps when this share of all goes."""
    if scope == "layer":
        return {name: round(len(values) * (1 - share)) for name, values in scores.items()}
    ranked = torch.cat(list(scores.values())).sort().values
    threshold = ranked[min(round(share * len(ranked)), len(ranked) - 1)]
    return {name: int((values >= threshold).sum()) for name, values in scores.items()}


def _rounded(count: int, present: int, original: int, multiple: int) -> int:
    """`count` channels as a multiple, not above those present nor below what a layer needs."""
    while multiple > 1 and original < 2 * multiple:
        multiple //= 2
    count = max(count, math.ceil(_LEAST_KEPT * original))
    largest = present // multiple * multiple or present
    return min(max(multiple, round(count / multiple) * multiple), largest)


def _without(network: nn.Module, sample: torch.Tensor, dropped: dict[str, torch.Tensor]) -> nn.Module:
    """A copy without these channels (indices by the name of the first of the coupled layers)."""
    from torch_pruning.pruner import function

    smaller = copy.deepcopy(network)
    fixed = [name for name, parameter in smaller.named_parameters() if not parameter.requires_grad]
    graph = _graph(smaller.requires_grad_(), sample)
    for name, indices in dropped.items():
        layer = smaller.get_submodule(name)
        convolution = isinstance(layer, nn.Conv2d)
        cut_outputs = function.prune_conv_out_channels if convolution else function.prune_linear_out_channels
        if len(indices):
            graph.get_pruning_group(layer, cut_outputs, sorted(indices.tolist())).prune()
    try:
        with torch.no_grad():
            smaller(sample)
    except RuntimeError as error:
        raise UserError(
            f"prune_channels: the network's code counts on its number of channels ({str(error).splitlines()[0]}); "
            "leave the step out"
        ) from None
    for name in fixed:
        smaller.get_parameter(name).requires_grad_(False)
    return smaller
