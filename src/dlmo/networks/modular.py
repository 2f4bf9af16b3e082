"""A user's code as the techniques want it: a graph in which every activation is a module of its own."""

import copy
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

_ACTIVATIONS = {
    F.relu: nn.ReLU, F.relu_: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.relu6: nn.ReLU6, F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid, F.silu: nn.SiLU,
    torch.sigmoid: nn.Sigmoid, F.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid, torch.tanh: nn.Tanh, F.tanh: nn.Tanh,
    "tanh": nn.Tanh,
}  # fmt: skip
_ACTIVATION_MODULES = tuple(set(_ACTIVATIONS.values()))
# In-place forms and methods of the sums and products that quantization knows.
_PLAIN = {
    operator.iadd: operator.add, "add": operator.add, "add_": operator.add,
    operator.isub: operator.sub, "sub": operator.sub, "sub_": operator.sub,
    operator.imul: operator.mul, "mul": operator.mul, "mul_": operator.mul,
}  # fmt: skip
_CONVOLUTIONS = (F.conv2d, torch.conv2d)
_POOLINGS = (F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean")


def modular(network: nn.Module, sample: torch.Tensor) -> fx.GraphModule:
    """A copy that computes the same, traced in evaluation mode; names of parameters stay.

    sample: an input, N x C x H x W. Layers of a class of the user's own that computes as torch's become torch's.
    Functions of activations, convolutions and linear layers become modules, an activation module that is called
    twice becomes two, averages over the whole map become adaptive pooling, in-place sums become plain ones. Further
    inputs that nothing uses go.
    Raises whatever torch.fx raises where the code's course depends on what it computes, and ValueError for a layer
    whose weights are computed: techniques would not see it.
    """
    graph = fx.symbolic_trace(_with_plain_layers(copy.deepcopy(network).eval()))
    _drop_unused_inputs(graph)
    ShapeProp(graph).propagate(sample)
    modules = dict(graph.named_modules())
    called: set[str] = set()
    for node in list(graph.graph.nodes):
        module = modules.get(node.target) if node.op == "call_module" else None
        if module is None and node.op not in ("call_function", "call_method"):
            continue
        if isinstance(module, _ACTIVATION_MODULES):
            if node.target in called:
                _call_module(graph, node, type(module)())
            called.add(node.target)
        elif module is None and node.target in _ACTIVATIONS:
            _call_module(graph, node, _ACTIVATIONS[node.target]())
        elif node.op == "call_method" and node.target == "view" and torch.dtype not in map(type, node.args):
            node.target = "reshape"  # see `for_any_layout`
        elif node.op == "call_function" and (node.target in _CONVOLUTIONS or node.target is F.linear):
            _call_layer(graph, node)
        elif module is None and node.target in _PLAIN and not node.kwargs:
            node.op, node.target = "call_function", _PLAIN[node.target]
        elif _averages_whole_map(node, module):
            pool = nn.AdaptiveAvgPool2d(1)
            _call_module(graph, node, nn.Sequential(pool, nn.Flatten()) if len(_shape(node)) == 2 else pool)
        elif module is None and node.target is F.dropout:  # traced in evaluation mode
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    # Sequences made above are traced through, so that each of their layers is seen too.
    return fx.symbolic_trace(graph)


def _with_plain_layers(network: nn.Module) -> nn.Module:
    """The network, its layers of derived classes that change nothing of the computation as torch's own."""
    for module in list(network.modules()):
        for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d):
            computing = ("forward", "_conv_forward") if kind is nn.Conv2d else ("forward",)
            own = type(module)
            if isinstance(module, kind) and all(getattr(own, name) is getattr(kind, name) for name in computing):
                _make_plain(module, kind)
    return network


def _make_plain(module: nn.Module, kind: type[nn.Module]) -> None:
    # weight_norm and the like give a layer a class of its own, where weights are computed.
    values = {name: getattr(module, name).detach().clone() for name in getattr(module, "parametrizations", ())}
    module.__class__ = kind
    if values:
        del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _drop_unused_inputs(graph: fx.GraphModule) -> None:
    _first, *further = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in further:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()


def _call_layer(graph: fx.GraphModule, node: fx.Node) -> None:
    """Let a convolution or linear function whose weights are parameters be a layer that holds them."""
    names = ["input", "weight", "bias"]
    if node.target is not F.linear:
        names += ["stride", "padding", "dilation", "groups"]
    given = dict(zip(names, node.args)) | dict(node.kwargs)
    source, weight, bias = given.pop("input"), given.pop("weight"), given.pop("bias", None)
    stored = [entry for entry in (weight, bias) if entry is not None]
    if isinstance(given.get("groups"), fx.Node):  # as many as the map has channels, for one
        given["groups"] = _shape(source)[1] // _shape(weight)[1]
    if any(entry.op != "get_attr" for entry in stored) or any(isinstance(value, fx.Node) for value in given.values()):
        if any(_learned(graph, entry) for entry in stored):
            raise ValueError(f"the weights of {node.name} are computed")
        return  # what is fixed needs no layer
    weight, bias = (None if entry is None else _attribute(graph, entry.target) for entry in (weight, bias))
    if node.target is F.linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    else:
        inputs = weight.shape[1] * given.get("groups", 1)
        layer = nn.Conv2d(inputs, weight.shape[0], tuple(weight.shape[2:]), bias=bias is not None, **given)
    # A buffer, such as the kernel of a blur, is not for training.
    layer.weight = nn.Parameter(weight.detach().clone(), isinstance(weight, nn.Parameter))
    layer.bias = None if bias is None else nn.Parameter(bias.detach().clone(), isinstance(bias, nn.Parameter))
    node.args = (source,)
    _call_module(graph, node, layer.eval())


def _learned(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a value depends on parameters; a number, such as a map's side, does not."""
    if node.op == "get_attr":
        return isinstance(_attribute(graph, node.target), nn.Parameter)
    if not hasattr(node.meta.get("tensor_meta"), "shape"):
        return False
    return node.op == "call_module" or any(_learned(graph, before) for before in node.all_input_nodes)


def _attribute(graph: fx.GraphModule, name: str) -> torch.Tensor:
    found = graph
    for part in name.split("."):
        found = getattr(found, part)
    return found


def exported(network: nn.Module, sample: torch.Tensor) -> fx.GraphModule:
    """What torch.export makes of code that fx cannot trace: computes the same for any batch, but has no layers left."""
    batch = sample.expand(2, *sample.shape[1:])
    program = torch.export.export(network.eval(), (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    return for_any_layout(fx.symbolic_trace(program.module()))


def for_any_layout(graph: fx.GraphModule) -> fx.GraphModule:
    """Exported code whose views are reshapes: maps in channels_last order, as dlmo's are, have no flat view."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            node.target = torch.ops.aten.reshape.default
    graph.recompile()
    return graph


def _averages_whole_map(node: fx.Node, module: nn.Module | None) -> bool:
    averages = isinstance(module, nn.AvgPool2d) or (module is None and node.target in _POOLINGS)
    if not averages or not isinstance(node.args[0], fx.Node):
        return False
    before, after = _shape(node.args[0]), _shape(node)
    return len(before) == 4 and (after == (*before[:2], 1, 1) or after == before[:2])


def _shape(node: fx.Node) -> tuple[int, ...]:
    found = node.meta.get("tensor_meta")
    return tuple(found.shape) if hasattr(found, "shape") else ()


def _call_module(graph: fx.GraphModule, node: fx.Node, module: nn.Module) -> None:
    """Let the node call a new module on its first argument."""
    name = f"dlmo_{node.name}"
    graph.add_submodule(name, module)
    node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}
