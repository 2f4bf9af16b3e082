"""What turns gradients into steps: SGD, and orthogonalized momentum for the convolutions it suits."""

from collections.abc import Sequence

import torch
from torch import nn

from dlmo.training.schedule import Schedule

# Orthogonalized steps have the same length whatever the gradient's, so their rate is another one: this share of the
# schedule's. Picked with the momentum on CIFAR-10's validation images (16x16, ResNet-20, 6 epochs).
_RATE_SHARE = 0.35
_MOMENTUM = 0.8
_ITERATIONS = 3
# Filters of a layer that are orthogonalized together. All of them at once cost a layer of 512 filters on maps of 2x2
# twice what the rest of its training takes; of ResNet-20 no layer has more.
_ROWS_AT_ONCE = 64
_INPUTS_AT_FULL_RATE = 64
# Of the polynomial a x + b x^3 + c x^5 that pulls singular values towards 1 (Jordan et al., see Muon).
_A, _B, _C = 3.4445, -4.7750, 2.0315


def optimizers_for(
    network: nn.Module, extra: nn.Module, schedule: Schedule, number_format: torch.dtype | None = None
) -> list[torch.optim.Optimizer]:
    """The optimizers that together train `network` and `extra`. number_format: of the products in `Muon`.

    The group entry "share" is what to multiply the schedule's learning rate by; "lr", the rate, is a
    tensor on the network's device, which a step sets first (see `training.replay`). Weight decay is for convolution and
    linear weights only.
    """
    filters = normalized_filters(network) if schedule.orthogonal else []
    taken = {id(parameter) for parameter in filters}
    others = [p for p in nn.ModuleList([network, extra]).parameters() if p.requires_grad and id(p) not in taken]
    plain = [parameter for parameter in others if parameter.ndim <= 1]
    groups = [{"params": plain, "weight_decay": 0.0, "share": 1.0}]
    decayed: dict[float, list[nn.Parameter]] = {}
    for parameter in others:
        if parameter.ndim > 1:
            decayed.setdefault(_share_of(parameter), []).append(parameter)
    groups += [
        {"params": parameters, "weight_decay": schedule.weight_decay, "share": share}
        for share, parameters in decayed.items()
    ]
    sgd = Sgd(groups, schedule.momentum)
    return [sgd, Muon(filters, number_format)] if filters else [sgd]


def _share_of(weight: nn.Parameter) -> float:
    """What part of the rate a weight that SGD trains learns at: less for a linear layer of many inputs.

    The loss bends along its weights with the square of its inputs' norm, which grows with their number: at one rate
    for all, a classifier of 1,280 or 2,048 inputs is thrown far off before it learns (`benchmarks/first_steps.py`).
    """
    return min(1.0, _INPUTS_AT_FULL_RATE / weight.shape[1]) if weight.ndim == 2 else 1.0


def normalized_filters(network: nn.Module) -> list[nn.Parameter]:
    """Weights of the convolutions without bias, the first one left out.

    As a rule a normalization behind them takes their filters' length away. In pre-activation networks some end in a
    sum: there the steps keep the length as it began. Depthwise filters see one channel each, so there is nothing to
    orthogonalize between them.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    return [
        convolution.weight
        for convolution in convolutions[1:]
        if convolution.groups == 1 and convolution.bias is None and convolution.weight.requires_grad
    ]


class Sgd(torch.optim.Optimizer):
    """SGD with Nesterov's momentum and weight decay, as `torch.optim.SGD(foreach=True)` has it, which reads a rate that
    is a tensor back from a GPU at every step."""

    def __init__(self, groups: Sequence[dict], momentum: float) -> None:
        super().__init__(groups, {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
            steps = _ahead(gradients, _momenta(self, parameters), group["momentum"])
            torch._foreach_mul_(steps, -group["lr"])
            torch._foreach_add_(parameters, steps)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized: all directions of a layer's filters learn alike, not only those of large gradients.

    Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Filters are kept at a norm of 1
    each on average (Jordan's CIFAR-10 speedrun does so), which takes the place of weight decay.
    parameters: weights of convolutions, out x in x height x width. number_format: of the products that orthogonalize,
    None for the weights' own; they may be as coarse as bfloat16 (Jordan's are).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], number_format: torch.dtype | None = None) -> None:
        super().__init__([{"params": list(parameters), "share": _RATE_SHARE}], {})
        self._number_format = number_format

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            # Layers of one shape are orthogonalized at once: small matrices alone would not fill a GPU.
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                self._step_alike(shape, parameters, group["lr"])

    def _step_alike(self, shape: torch.Size, parameters: list[nn.Parameter], learning_rate: torch.Tensor) -> None:
        ahead = _ahead([parameter.grad for parameter in parameters], _momenta(self, parameters), _MOMENTUM)
        rows, columns = shape[0], shape[1:].numel()
        at_once = rows_at_once(rows)
        matrices = torch.stack(ahead).reshape(-1, at_once, columns)
        steps = orthogonalized(matrices, self._number_format).reshape(-1, *shape)
        length = learning_rate * max(1.0, rows / columns) ** 0.5
        norms = torch._foreach_norm(parameters)
        torch._foreach_mul_(norms, rows**-0.5)
        torch._foreach_div_(parameters, norms)
        torch._foreach_add_(parameters, (steps * -length).unbind())


def _momenta(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    for parameter in parameters:
        if "momentum_buffer" not in optimizer.state[parameter]:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]


def _ahead(gradients: list[torch.Tensor], momenta: list[torch.Tensor], momentum: float) -> list[torch.Tensor]:
    """Add the gradients to the momenta and look one step ahead (Nesterov)."""
    torch._foreach_mul_(momenta, momentum)
    torch._foreach_add_(momenta, gradients)
    return torch._foreach_add(gradients, momenta, alpha=momentum)


def rows_at_once(rows: int) -> int:
    """The largest divisor of `rows` that is at most _ROWS_AT_ONCE."""
    return next(count for count in range(min(rows, _ROWS_AT_ONCE), 0, -1) if rows % count == 0)


def orthogonalized(matrices: torch.Tensor, number_format: torch.dtype | None = None) -> torch.Tensor:
    """The nearest matrices with singular values around 1 (0.7 to 1.2 but for small ones), n x rows x columns.

    number_format: of the products, None for that of `matrices`.
    """
    values = (matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(number_format or matrices.dtype)
    wide = values.shape[1] <= values.shape[2]
    values = values if wide else values.mT
    for _ in range(_ITERATIONS):
        squares = values @ values.mT
        # Few and fused operations: on a GPU, starting many small kernels is what a step waits for. The first term of
        # the polynomial goes into the product as well, which spares a CPU a copy of the values.
        polynomial = torch.baddbmm(squares, squares, squares, beta=_B, alpha=_C)
        polynomial.diagonal(dim1=1, dim2=2).add_(_A)
        values = polynomial @ values
    return (values if wide else values.mT).to(matrices.dtype)
