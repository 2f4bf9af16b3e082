"""Networks by name, as plain torch modules.

Names can be listed and checked without torch; `build` and `count` import it when called.
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from dlmo.errors import UserError
from dlmo.networks import stems
from dlmo.networks.registry import NetworkInfo, canonical, names, parse, plain_name

if TYPE_CHECKING:
    from torch import nn

    from dlmo.networks.counting import Counts

__all__ = ["MIN_SIDE", "NetworkInfo", "build", "canonical", "count", "names", "plain_name"]

MIN_SIDE = 8


def build(name: str, *, classes: int, input_shape: tuple[int, int, int], stem: str = "auto") -> "nn.Module":
    """A freshly initialized network.

    input_shape: height, width, channels of the images. The module takes float32 N x channels x height x width
    and returns logits, N x classes.
    stem: `auto`, `small`, `medium` or `large`, see `dlmo.networks.stems`; one that the name holds takes its place.
    """
    parsed = parse(name)
    if classes < 1:
        raise UserError(f"{name}: needs at least one class, not {classes}")
    height, width, channels = input_shape
    if min(height, width) < MIN_SIDE or channels < 1:
        raise UserError(
            f"{name}: images must be at least {MIN_SIDE}x{MIN_SIDE} pixels with 1 channel, "
            f"not {height}x{width} with {channels}; resize them"
        )
    return import_module(f"dlmo.networks.{parsed.module}").build(
        classes=classes,
        channels=channels,
        strides=stems.STRIDES[stems.choose(parsed.stem or stem, input_shape)],
        width=parsed.width,
        **parsed.arguments,
    )


@cache
def count(
    name: str, *, classes: int = 10, input_shape: tuple[int, int, int] = (32, 32, 3), stem: str = "auto"
) -> "Counts":
    """Parameters and multiply-accumulates of a network, without making its weights."""
    import torch

    from dlmo.networks.counting import count_module

    with torch.device("meta"):
        network = build(name, classes=classes, input_shape=input_shape, stem=stem)
        return count_module(network, input_shape)
