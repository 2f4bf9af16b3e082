"""Quantization-aware training: the network computes as the int8 file will, while it still learns.

BatchNorm is folded into the convolution before it; weights are rounded per output channel (symmetric, -127..127),
activations per tensor (affine, -128..127) at the points where TensorFlow Lite has an int8 tensor: after the input,
and after each operator with its fused activation. Gradients pass straight through the rounding (Jacob et al.,
"Quantization and training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018).
"""

import copy
import operator
from collections import Counter

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from dlmo.data.preprocessing import PIXEL_OFFSET, PIXEL_SCALE
from dlmo.errors import UserError
from dlmo.techniques.integer_form import integer_form
from dlmo.techniques.technique import Technique

_decomposed = torch.ops.quantized_decomposed
_FUSED_ACTIVATIONS = (nn.ReLU, nn.ReLU6)
_ELEMENTWISE = (operator.add, operator.sub, operator.mul, torch.add, torch.sub, torch.mul)
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_CURVED, _CURVED_FUNCTIONS = (nn.LeakyReLU, nn.GELU), (F.leaky_relu, F.gelu)
# Their kernels know one range each: 256 steps of 1/256 from 0, of 1/128 from -1.
_FIXED_RANGES = {nn.Sigmoid: (0.0, 255 / 256), nn.Tanh: (-1.0, 127 / 128)}
_RANGE_MOMENTUM = 0.05
# The scale of a filter's weights, at least, as a share of its bias; see runtimes.litert.quantize.
_LEAST_SCALE = 3e-4 / 127


class QuantizationAwareTraining(Technique):
    """Train with fake-quantized weights and activations, starting from a trained float network."""

    def begin(self, network: nn.Module, steps: int) -> nn.Module:
        # The layers put in are new; techniques that begin after this one look at them where the others are.
        return insert_fake_quantization(network).to(next(network.parameters()).device)


class ActivationQuantizer(nn.Module):
    """Rounds a tensor to 8 bits over a range that follows the values seen in training.

    fixed: the range is given (low, high) and does not move.
    """

    def __init__(self, fixed: tuple[float, float] | None = None) -> None:
        super().__init__()
        low, high = fixed or (float("inf"), float("-inf"))
        self.register_buffer("low", torch.tensor(low))
        self.register_buffer("high", torch.tensor(high))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("observing", torch.tensor([fixed is None], dtype=torch.long))
        self.register_buffer("rounding", torch.ones(1, dtype=torch.long))
        self.fixed = fixed is not None
        self.export: tuple[float, int] | None = None
        if self.fixed:
            self.scale.fill_((high - low) / 255)
            self.zero_point.fill_(round(-128 - low / float(self.scale)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and not self.fixed and self.export is None:
            return torch.fused_moving_avg_obs_fake_quant(
                x.float(), self.observing, self.rounding, self.low, self.high, self.scale, self.zero_point,
                _RANGE_MOMENTUM, -128, 127, 0, False, False,
            )  # fmt: skip
        return self.rounded(x)

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        """In the range as it is now."""
        if self.export is None:
            return torch.fake_quantize_per_tensor_affine(x.float(), self.scale, self.zero_point, -128, 127)
        scale, zero_point = self.export
        rounded = _decomposed.quantize_per_tensor.default(x, scale, zero_point, -128, 127, torch.int8)
        return _decomposed.dequantize_per_tensor.default(rounded, scale, zero_point, -128, 127, torch.int8)


class SameScale(nn.Module):
    """Rounds as another quantizer, which sees the values later: what is put side by side must have the scale of the
    whole, or the file computes something else."""

    def __init__(self, whole: ActivationQuantizer) -> None:
        super().__init__()
        self.follow(whole)

    def follow(self, whole: ActivationQuantizer) -> None:
        self._whole = [whole]  # not a part of this module: it stands in the graph itself

    @property
    def whole(self) -> ActivationQuantizer:
        return self._whole[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded = self.whole.rounded(x)
        if self.whole.export is not None:
            return rounded
        return torch.where(torch.isinf(self.whole.low), x, rounded)  # no range yet in the very first step


class _WeightQuantizer:
    """Rounds weights to 8 bits per output channel. Mixed into the layers below."""

    export = False

    def quantized_weight(self) -> torch.Tensor:
        scale = self._scale()
        if not self.export:
            # Zeros of a whole-number type would be checked for their range, and a GPU waited for at every layer.
            return torch.fake_quantize_per_channel_affine(self.weight, scale, torch.zeros_like(scale), 0, -127, 127)
        arguments = (self.export_scale, self.export_zero_point, 0, -127, 127, torch.int8)
        rounded = _decomposed.quantize_per_channel.default(self.weight, *arguments)
        return _decomposed.dequantize_per_channel.default(rounded, *arguments)

    def _scale(self) -> torch.Tensor:
        """Of each filter. Not too small beside the bias, which is stored in steps of it, in 32 bits: that of a filter
        which pruning emptied would not fit."""
        scale = (self.weight.detach().abs().flatten(1).amax(1) / 127).clamp_min(1e-8)
        return scale if self.bias is None else torch.maximum(scale, _LEAST_SCALE * self.bias.detach().abs())

    def prepare_export(self) -> None:
        # The converter wants scales as stored tensors, not as something computed.
        scale = self._scale()
        self.register_buffer("export_scale", scale)
        self.register_buffer("export_zero_point", torch.zeros_like(scale, dtype=torch.int64))
        self.export = True


class QuantizedConv2d(nn.Conv2d, _WeightQuantizer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.quantized_weight(), self.bias)


class QuantizedLinear(nn.Linear, _WeightQuantizer):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.quantized_weight(), self.bias)


def insert_fake_quantization(network: nn.Module) -> fx.GraphModule:
    """A copy of `network` with BatchNorm folded and quantizers in place; ranges are learned by training it.

    The network must be traceable by torch.fx and use each activation module once.
    """
    graph = fold_batch_norm(integer_form(network))
    for name, module in list(graph.named_modules()):
        if type(module) is nn.Conv2d:
            _replace(graph, name, _quantized_conv(module))
        elif type(module) is nn.Linear:
            layer = QuantizedLinear(module.in_features, module.out_features, module.bias is not None)
            layer.load_state_dict(module.state_dict())
            layer.weight.requires_grad_(module.weight.requires_grad)
            _replace(graph, name, layer)
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        if node.op == "placeholder":
            limits = ((0 - PIXEL_OFFSET) / PIXEL_SCALE, (255 - PIXEL_OFFSET) / PIXEL_SCALE)
            _insert_after(graph, node, ActivationQuantizer(limits))
        elif _is_int8_boundary(node, modules):
            _insert_after(graph, node, ActivationQuantizer(_FIXED_RANGES.get(type(modules.get(node.target)))))
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in _CONCATENATIONS:
            _give_one_scale(graph, node)
    graph.graph.lint()
    graph.recompile()
    return graph


def exportable(network: fx.GraphModule) -> fx.GraphModule:
    """A copy whose rounding is written as explicit quantize/dequantize pairs with the learned scales."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, ActivationQuantizer):
            module.export = float(module.scale), int(module.zero_point)
        elif isinstance(module, QuantizedConv2d | QuantizedLinear):
            module.prepare_export()
    return network


def fold_batch_norm(network: nn.Module) -> fx.GraphModule:
    """An evaluation-mode copy without BatchNorm and Dropout, computing the same.

    A BatchNorm behind a convolution is folded into it; any other (pre-activation networks) becomes a 1x1
    depthwise convolution, which the kernels quantize per channel, as a multiplication and an addition would not.
    """
    graph = fx.symbolic_trace(copy.deepcopy(network).eval())
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    for node in list(graph.graph.nodes):
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.Dropout):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif isinstance(module, nn.BatchNorm1d):
            source = node.args[0]
            before = modules.get(source.target) if source.op == "call_module" else None
            folds = module.weight is not None and module.running_mean is not None
            if (
                isinstance(before, nn.Linear)
                and folds
                and before.out_features == module.num_features
                and len(source.users) == 1
                and calls[source.target] == 1
            ):
                modules[source.target] = fuse_linear_bn_eval(before, module)
                _replace(graph, source.target, modules[source.target])
                node.replace_all_uses_with(source)
                graph.graph.erase_node(node)
        elif isinstance(module, nn.BatchNorm2d):
            source = node.args[0]
            before = modules.get(source.target) if source.op == "call_module" else None
            if isinstance(before, nn.Conv2d) and len(source.users) == 1 and calls[source.target] == 1:
                modules[source.target] = fuse_conv_bn_eval(before, module)
                _replace(graph, source.target, modules[source.target])
                node.replace_all_uses_with(source)
                graph.graph.erase_node(node)
            else:
                modules[node.target] = _channel_affine(module)
                _replace(graph, node.target, modules[node.target])
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def _channel_affine(norm: nn.BatchNorm2d) -> nn.Conv2d:
    conv = nn.Conv2d(norm.num_features, norm.num_features, 1, groups=norm.num_features)
    with torch.no_grad():
        factor = (norm.running_var + norm.eps).rsqrt()
        factor = factor if norm.weight is None else norm.weight * factor
        conv.weight.copy_(factor[:, None, None, None])
        conv.bias.copy_((0 if norm.bias is None else norm.bias) - norm.running_mean * factor)
    return conv


def _quantized_conv(conv: nn.Conv2d) -> QuantizedConv2d:
    layer = QuantizedConv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups,
        conv.bias is not None, conv.padding_mode,
    )  # fmt: skip
    layer.load_state_dict(conv.state_dict())
    layer.weight.requires_grad_(conv.weight.requires_grad)
    return layer


def _is_int8_boundary(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether TensorFlow Lite has an int8 tensor of its own behind this node."""
    module = modules.get(node.target) if node.op == "call_module" else None
    function = node.target if node.op == "call_function" else None
    if isinstance(module, (*_FUSED_ACTIVATIONS, *_CURVED, *_FIXED_RANGES)) or function in _CURVED_FUNCTIONS:
        return True
    layers = (QuantizedConv2d, QuantizedLinear, nn.AdaptiveAvgPool2d)
    if not isinstance(module, layers) and function not in _ELEMENTWISE:
        return False
    if _is_number(node):
        return False
    users = list(node.users)
    fused = (
        len(users) == 1
        and users[0].op == "call_module"
        and isinstance(modules.get(users[0].target), _FUSED_ACTIVATIONS)
    )
    return not fused


def _is_number(value: object) -> bool:
    """Whether this is computed from the sides of tensors alone, as `x.size(1) * x.size(2)` is."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float)
    if value.op == "call_method":
        return value.target in ("size", "dim", "numel")
    if value.op != "call_function":
        return False
    if value.target is getattr:
        return value.args[1] == "shape"
    numbers = [entry for entry in value.args if not isinstance(entry, slice)]
    return bool(numbers) and all(map(_is_number, numbers))


def _insert_after(graph: fx.GraphModule, node: fx.Node, quantizer: ActivationQuantizer) -> None:
    name = f"quantizer_{node.name}"
    graph.add_module(name, quantizer)
    with graph.graph.inserting_after(node):
        inserted = graph.graph.call_module(name, (node,))
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)


def _give_one_scale(graph: fx.GraphModule, node: fx.Node) -> None:
    """Round what a concatenation joins, and what comes out, by one quantizer; by that of the last one where a map
    stands in several.

    Raises UserError where that cannot be: a second rounding behind the first is lost in conversion.
    """
    sources = node.args[0] if node.args else node.kwargs["tensors"]
    if isinstance(sources, fx.Node):  # the parts of one map have its scale already
        return
    whole = ActivationQuantizer()
    _insert_after(graph, node, whole)
    for source in dict.fromkeys(sources):
        module = graph.get_submodule(source.target) if source.op == "call_module" else None
        if isinstance(module, ActivationQuantizer) and module.fixed:
            raise UserError(
                "qat: the network puts the input, or what Sigmoid or Tanh give, beside other maps (torch.cat), which "
                "have another scale in integers; leave qat out"
            )
        before = module.whole if isinstance(module, SameScale) else module
        if isinstance(before, ActivationQuantizer):
            _let_follow(graph, before, whole)
        else:
            name = f"same_scale_{node.name}_{source.name}"
            graph.add_module(name, SameScale(whole))
            with graph.graph.inserting_before(node):
                node.replace_input_with(source, graph.graph.call_module(name, (source,)))


def _let_follow(graph: fx.GraphModule, before: ActivationQuantizer, whole: ActivationQuantizer) -> None:
    """Give everything that a quantizer rounds the range of another one."""
    for name, module in list(graph.named_modules()):
        if module is before and module is not whole:
            _replace(graph, name, SameScale(whole))
        elif isinstance(module, SameScale) and module.whole is before:
            module.follow(whole)


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)
