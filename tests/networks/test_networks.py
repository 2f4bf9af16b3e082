"""The modules themselves: published sizes, shapes, what later stages rely on."""

from collections.abc import Iterator

import pytest
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dlmo.errors import UserError
from dlmo.networks import build, canonical, count, names, plain_name, stems
from dlmo.networks.counting import Counts, count_module
from dlmo.networks.layers import scaled

SMALL_OF_EACH_FAMILY = [
    "vgg@0.25",
    "resnet50@0.125",
    "resnet8",
    "wide_resnet_10_1",
    "compact_wide@0.25",
    "compact_deep@0.5",
    "mobilenet_v1@0.25",
    "mobilenet_v2@0.35",
    "mobilenet_v3_small@0.5",
    "mobilenet_v3_large@0.25",
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On maps this small, threads of a busy machine only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "stem", "classes", "parameters"),
    [
        # torchvision's documentation, ImageNet.
        ("resnet50", "large", 1000, 25_557_032),
        ("resnet101", "large", 1000, 44_549_160),
        ("mobilenet_v2", "large", 1000, 3_504_872),
        ("mobilenet_v3_small", "large", 1000, 2_542_856),
        ("mobilenet_v3_large", "large", 1000, 5_483_032),
        # Keras' documentation, less the moving statistics of BatchNorm.
        ("mobilenet_v1", "large", 1000, 4_231_976),
        # The same for CIFAR-10.
        ("resnet50", "large", 10, 23_528_522),
        ("resnet50", "small", 10, 23_520_842),
        ("mobilenet_v2", "small", 10, 2_236_682),
        ("mobilenet_v3_small", "small", 10, 1_528_106),
        ("vgg", "small", 10, 141_034),
    ],
)
def test_parameters_exactly(name: str, stem: str, classes: int, parameters: int) -> None:
    assert count(name, classes=classes, stem=stem).parameters == parameters


# The papers' rounded figures; He et al. count option A shortcuts, 1 % less.
@pytest.mark.parametrize(
    "info",
    [info for info in names() if info.published_classes == 10 and info.name != "wide_resnet_28_10"],
    ids=lambda info: info.name,
)
def test_parameters_as_published(info) -> None:
    tolerance = 0.07 if info.published_parameters == 600_000 else 0.02  # wide_resnet_40_1: 0.56 M, printed 0.6 M
    assert count(info.name).parameters == pytest.approx(info.published_parameters, rel=tolerance)


def test_macs_as_published() -> None:
    assert count("mobilenet_v2", classes=1000, input_shape=(224, 224, 3)).macs == pytest.approx(300e6, rel=0.01)
    assert count("resnet50", classes=1000, input_shape=(224, 224, 3)).macs == pytest.approx(4.09e9, rel=0.01)
    assert count("resnet20").macs == pytest.approx(41e6, rel=0.01)


@pytest.mark.parametrize("name", SMALL_OF_EACH_FAMILY)
def test_any_image_from_8_pixels(name: str) -> None:
    cases = [((8, 8, 1), "large"), ((9, 15, 3), "small"), ((64, 49, 3), "auto"), ((97, 130, 4), "auto")]
    for (height, width, channels), stem in cases:
        with torch.device("meta"):
            network = build(name, classes=7, input_shape=(height, width, channels), stem=stem)
            assert network(torch.zeros(2, channels, height, width)).shape == (2, 7)


@pytest.mark.parametrize("name", SMALL_OF_EACH_FAMILY)
def test_traceable_with_one_use_per_module(name: str) -> None:
    """Quantization-aware training traces the graph and puts its observers behind modules."""
    torch.manual_seed(0)
    network = build(name, classes=10, input_shape=(16, 16, 3)).eval()
    graph = fx.symbolic_trace(network)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(graph(images), network(images))

    called = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    leaves = [key for key, module in network.named_modules() if not list(module.children())]
    assert sorted(called) == sorted(leaves)
    functions = {node.target.__name__ for node in graph.graph.nodes if node.op == "call_function"}
    assert functions <= {"add", "mul", "flatten"}
    assert not any(node.op == "call_method" for node in graph.graph.nodes)


@pytest.mark.parametrize("name", SMALL_OF_EACH_FAMILY)
def test_norms_fold_into_the_convolution_before(name: str) -> None:
    """Only a wide ResNet's norms behind sums stay: one per block and the last."""
    torch.manual_seed(0)
    network = build(name, classes=10, input_shape=(16, 16, 3))
    network(torch.rand(8, 3, 16, 16))
    network.eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = network(images)
        for module in list(network.modules()):
            if isinstance(module, nn.Sequential) and hasattr(module, "norm"):
                module.conv = fuse_conv_bn_eval(module.conv, module.norm)
                module.norm = nn.Identity()
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-3)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert left == (4 if name == "wide_resnet_10_1" else 0)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [
        (32, 1.0, 32),
        (32, 0.35, 16),
        (16, 0.1, 8),
        (24, 0.5, 16),
        (64, 0.75, 48),
        (1280, 1.4, 1792),
        (16, 4.0, 64),
    ],
)
def test_scaled_channels(channels: int, width: float, expected: int) -> None:
    assert scaled(channels, width) == expected


def test_width_changes_the_channels() -> None:
    network = build("resnet20@0.5", classes=10, input_shape=(32, 32, 3))
    assert network.classifier.in_features == 32
    # As published, the last convolution does not shrink.
    assert build("mobilenet_v2@0.35", classes=10, input_shape=(32, 32, 3)).classifier.in_features == 1280


@pytest.mark.parametrize(
    ("shape", "stem"),
    [
        ((8, 8, 1), "small"),
        ((47, 200, 3), "small"),
        ((48, 48, 3), "medium"),
        ((64, 64, 3), "medium"),
        ((95, 96, 3), "medium"),
        ((96, 96, 3), "large"),
        ((224, 224, 3), "large"),
    ],
)
def test_stem_by_shorter_side(shape: tuple[int, int, int], stem: str) -> None:
    assert stems.choose("auto", shape) == stem
    assert stems.choose("small", shape) == "small"


def test_a_name_may_hold_a_stem() -> None:
    assert canonical(" ResNet20@0.50:Medium ") == "resnet20@0.5:medium" and plain_name("vgg:large") == "vgg"
    assert count("resnet20:medium", stem="large") == count("resnet20", stem="medium") != count("resnet20")
    for wrong in ("resnet20:", "resnet20:auto", "resnet20:0.5"):
        with pytest.raises(UserError, match="a stem, one of small, medium, large"):
            canonical(wrong)


def test_64_pixels_cost_what_32_cost() -> None:
    for name in ("vgg", "resnet8", "mobilenet_v2"):
        assert count(name, input_shape=(64, 64, 3)).macs == count(name).macs


@pytest.mark.parametrize("name", ["resnet20", "resnet50", "mobilenet_v2", "mobilenet_v3_small"])
def test_residual_branches_begin_small(name: str) -> None:
    network = build(name, classes=10, input_shape=(32, 32, 3))
    scales = [float(module.weight[0]) for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    small = [scale for scale in scales if scale == pytest.approx(0.2)]
    sums = {"resnet20": 9, "resnet50": 16, "mobilenet_v2": 10, "mobilenet_v3_small": 7}
    assert len(small) == sums[name] and set(scales) == {1.0, small[0]}


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match="at least 8x8 pixels.*7x32"):
        build("vgg", classes=2, input_shape=(7, 32, 3))
    with pytest.raises(UserError, match="at least one class"):
        build("vgg", classes=0, input_shape=(32, 32, 3))
    with pytest.raises(UserError, match="choose auto, small, medium, large"):
        build("vgg", classes=2, input_shape=(32, 32, 3), stem="tiny")


def test_counting_leaves_the_module_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 2))
    network[1].eval()
    assert count_module(network, (4, 4, 3)) == Counts(3 * 8 * 9 + 8 + 16 + 258, 3 * 8 * 9 * 16 + 256)
    assert network.training
    assert not network[1].training
    assert network[1].num_batches_tracked == 0
    assert not network[0]._forward_hooks
