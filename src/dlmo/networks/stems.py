"""How often a network halves the image before its first full stage.

| stem | its stride | first stage's stride | auto: shorter side | total: MobileNets, ResNet-50 | others |
|---|---|---|---|---|---|
| small | 1 | 1 | under 48 | 8 | 4 |
| medium | 2 | 1 | 48 to 95 | 16 | 8 |
| large | 2 | 2 | 96 and more | 32 | 16 |

MobileNets and bottleneck ResNets were published with the large stem, CIFAR and wide ResNets with the small
one. Where ResNet-50 has max pooling after its stem, that is its first stage's stride. So a 64x64 image
costs what a 32x32 one costs, and the last map of an image of 32 pixels or more is at least 3 pixels wide.
"""

from dlmo.errors import UserError

STRIDES = {"small": (1, 1), "medium": (2, 1), "large": (2, 2)}
MEDIUM_FROM = 48
LARGE_FROM = 96


def from_auto(input_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """The stem that suits images of this shape, and those that leave networks a smaller map."""
    names = list(STRIDES)
    return tuple(names[names.index(choose("auto", input_shape)) :])


def choose(stem: str, input_shape: tuple[int, int, int]) -> str:
    """The stem that `stem` (`auto` or a stem's name) means for images of this height, width and channels."""
    if stem in STRIDES:
        return stem
    if stem != "auto":
        raise UserError(f"unknown stem {stem!r}; choose auto, {', '.join(STRIDES)}")
    side = min(input_shape[:2])
    if side < MEDIUM_FROM:
        return "small"
    return "medium" if side < LARGE_FROM else "large"
