"""A user's code as the techniques want it: a graph in which every activation is a module of its own."""

import copy
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

_ACTIVATIONS = {
    F.relu: nn.ReLU, F.relu_: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.relu6: nn.ReLU6, F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid,
}  # fmt: skip
_ACTIVATION_MODULES = tuple(set(_ACTIVATIONS.values()))
# In-place forms and methods of the two sums and products that quantization knows.
_PLAIN = {
    operator.iadd: operator.add, "add": operator.add, "add_": operator.add,
    operator.imul: operator.mul, "mul": operator.mul, "mul_": operator.mul,
}  # fmt: skip
_POOLINGS = (F.avg_pool2d, F.adaptive_avg_pool2d, torch.mean, "mean")


def modular(network: nn.Module, sample: torch.Tensor) -> fx.GraphModule:
    """A copy that computes the same, traced in evaluation mode; names of parameters stay.

    sample: an input, N x C x H x W. Functions of activations become modules, an activation module that is called
    twice becomes two, averages over the whole map become adaptive pooling, in-place sums become plain ones.
    Raises whatever torch.fx raises where the code's course depends on what it computes.
    """
    graph = fx.symbolic_trace(copy.deepcopy(network).eval())
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
