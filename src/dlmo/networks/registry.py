"""Which networks there are and how their names are read. Imports no torch: listing and checking are instant.

A name is a family's name, its numbers, an optional width and an optional stem: `mobilenet_v2`, `resnet20@0.5`,
`wide_resnet_16_2`, `resnet20@0.5:medium`. A new family is one module with a `build`, one entry in
FAMILIES and its lines in `costs.COSTS`.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlmo.errors import UserError
from dlmo.networks.costs import COSTS
from dlmo.networks.stems import STRIDES

MAX_WIDTH = 4.0
WIDTH_DIGITS = 3


@dataclass(frozen=True)
class NetworkInfo:
    """A network worth listing; its family may accept many more.

    parameters, macs: of one 32x32 RGB image with ten classes, see `costs`.
    published_parameters: for `published_classes` classes and RGB images. Exact figures are torchvision's,
    rounded ones the paper's, of wide_resnet_16_2 arXiv:1612.03928's and of wide_resnet_34_1 the reference
    study's.
    """

    name: str
    description: str
    paper: str
    parameters: int
    macs: int
    published_parameters: int | None = None
    published_classes: int | None = None


@dataclass(frozen=True)
class Family:
    """One module of this package.

    pattern: the names it builds; named groups become arguments of the module's `build`.
    numbers: for each numeric group, the values it may take.
    rule: those values in words, for messages.
    published: listed name -> description, published parameters, classes they are for.
    """

    module: str
    paper: str
    pattern: str
    published: Mapping[str, tuple[str, int | None, int | None]]
    numbers: Mapping[str, range | tuple[int, ...]] = field(default_factory=dict)
    rule: str = ""


# Order matters once: resnet50 is the bottleneck network, although 50 = 6 * 8 + 2 would make it a CIFAR one.
FAMILIES = (
    Family(
        "vgg",
        "arXiv:1409.1556, cut down by Sensors 22(19):7344",
        "vgg",
        {"vgg": ("five 3x3 convolutions, max pooling between: the study's small baseline", None, None)},
    ),
    Family(
        "resnet",
        "arXiv:1512.03385",
        "resnet(?P<depth>50|101)",
        {
            "resnet50": ("bottleneck residual network: large baseline", 25_557_032, 1000),
            "resnet101": ("bottleneck residual network: largest baseline", 44_549_160, 1000),
        },
    ),
    Family(
        "cifar_resnet",
        "arXiv:1512.03385, section 4.2",
        r"resnet(?P<depth>\d+)",
        {
            "resnet8": ("residual network for small images, 3 blocks", None, None),
            "resnet14": ("residual network for small images, 6 blocks", None, None),
            "resnet20": ("residual network for small images, 9 blocks", 270_000, 10),
            "resnet32": ("residual network for small images, 15 blocks", 460_000, 10),
            "resnet44": ("residual network for small images, 21 blocks", 660_000, 10),
            "resnet56": ("residual network for small images, 27 blocks: a good teacher", 850_000, 10),
            "resnet110": ("residual network for small images, 54 blocks", 1_700_000, 10),
        },
        {"depth": range(8, 1203, 6)},
        "depth 6n+2 (or resnet50 and resnet101, the bottleneck networks)",
    ),
    Family(
        "wide_resnet",
        "arXiv:1605.07146",
        r"wide_resnet_(?P<depth>\d+)_(?P<widening>\d+)",
        {
            "wide_resnet_10_1": ("wide residual network, 3 blocks: the smallest", None, None),
            "wide_resnet_16_1": ("wide residual network, 6 blocks", None, None),
            "wide_resnet_16_2": ("wide residual network, 6 blocks, twice as wide", 700_000, 10),
            "wide_resnet_34_1": ("wide residual network, 15 blocks: the study's", 470_000, 10),
            "wide_resnet_40_1": ("wide residual network, 18 blocks", 600_000, 10),
            "wide_resnet_40_2": (
                "wide residual network, 18 blocks, twice as wide: a good teacher",
                2_200_000,
                10,
            ),
            "wide_resnet_28_10": ("wide residual network, 12 blocks, ten times as wide", 36_500_000, 10),
        },
        {"depth": range(10, 1001, 6), "widening": range(1, 21)},
        "depth 6n+4, widening 1 to 20",
    ),
    Family(
        "compact",
        "found by a search, docs/compression.md",
        "compact_(?P<shape>wide|deep)",
        {
            "compact_wide": ("few, wide depthwise blocks: 101 KB as int8 with ten classes", None, None),
            "compact_deep": ("narrow residual, then depthwise blocks: 91 KB likewise", None, None),
        },
    ),
    Family(
        "mobilenet_v1",
        "arXiv:1704.04861",
        "mobilenet_v1",
        {"mobilenet_v1": ("depthwise separable convolutions", 4_200_000, 1000)},
    ),
    Family(
        "mobilenet_v2",
        "arXiv:1801.04381",
        "mobilenet_v2",
        {"mobilenet_v2": ("inverted residuals with linear bottlenecks", 3_504_872, 1000)},
    ),
    Family(
        "mobilenet_v3",
        "arXiv:1905.02244",
        "mobilenet_v3_(?P<variant>small|large)",
        {
            "mobilenet_v3_small": (
                "searched inverted residuals, squeeze-excite, hard-swish",
                2_542_856,
                1000,
            ),
            "mobilenet_v3_large": (
                "searched inverted residuals, squeeze-excite, hard-swish",
                5_483_032,
                1000,
            ),
        },
    ),
)


@dataclass(frozen=True)
class ParsedName:
    """A valid name, taken apart: the family's module, the arguments of its `build`, the width; the stem, None where the
    images decide."""

    base: str
    module: str
    arguments: dict[str, Any]
    width: float
    stem: str | None = None

    @property
    def canonical(self) -> str:
        return self.plain if self.stem is None else f"{self.plain}:{self.stem}"

    @property
    def plain(self) -> str:
        """The name without its stem."""
        return self.base if self.width == 1.0 else f"{self.base}@{self.width:g}"


def names() -> list[NetworkInfo]:
    """The networks worth listing, family by family, at width 1."""
    return [
        NetworkInfo(name, description, family.paper, *COSTS[name], published, classes)
        for family in FAMILIES
        for name, (description, published, classes) in family.published.items()
    ]


def parse(name: str) -> ParsedName:
    """Takes a name apart. Raises UserError with the nearest valid names."""
    network, colon, stem = name.strip().lower().partition(":")
    if colon and stem not in STRIDES:
        raise UserError(f"no network {name!r}: behind the colon stands a stem, one of {', '.join(STRIDES)}")
    base, at, width_text = network.partition("@")
    for family in FAMILIES:
        match = re.fullmatch(family.pattern, base, re.ASCII)
        if match:
            arguments = _arguments(family, name, match)
            # Leading zeros (resnet020) must not make a second name for the same network.
            base = _rebuilt(base, match, arguments)
            width = _width(name, width_text) if at else 1.0
            return ParsedName(base, family.module, arguments, width, stem or None)
    raise UserError(f"unknown network {name!r}; {_nearest(base)}; `dlmo networks` lists them")


def canonical(name: str) -> str:
    """The one spelling of a name: `MobileNet_v2@1.0` -> `mobilenet_v2`. Raises UserError for a wrong one."""
    return parse(name).canonical


def plain_name(name: str) -> str:
    """A valid name without its stem."""
    return parse(name).plain


def _arguments(family: Family, name: str, match: re.Match[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        key: int(text) if text.isdecimal() else text for key, text in match.groupdict().items()
    }
    for key, allowed in family.numbers.items():
        if arguments[key] not in allowed:
            below = [value for value in allowed if value < arguments[key]][-1:]
            above = [value for value in allowed if value > arguments[key]][:1]
            nearby = [_rebuilt(match.string, match, arguments | {key: value}) for value in below + above]
            raise UserError(f"no network {name!r}: needs {family.rule}; nearest: {' or '.join(nearby)}")
    return arguments


def _rebuilt(base: str, match: re.Match[str], arguments: Mapping[str, Any]) -> str:
    for key in reversed(list(match.groupdict())):
        base = base[: match.start(key)] + str(arguments[key]) + base[match.end(key) :]
    return base


def _width(name: str, text: str) -> float:
    # Digits that the canonical name would drop must not change the network it stands for.
    width = round(float(text), WIDTH_DIGITS) if re.fullmatch(r"\d*\.?\d+|\d+\.", text, re.ASCII) else 0.0
    if not 0 < width <= MAX_WIDTH:
        raise UserError(
            f"no network {name!r}: the width after @ must be a number over 0 and at most {MAX_WIDTH:g}, such as @0.5"
        )
    return width


def _nearest(base: str) -> str:
    listed = [info.name for info in names()]
    longer = [name for name in listed if base and name.startswith(base)][:3]
    close = longer or difflib.get_close_matches(base, listed, n=1, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"for example {', '.join(listed[:3])}"
