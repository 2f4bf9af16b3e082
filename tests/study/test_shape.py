"""What is said of a file before training must be what training ends with."""

import pytest

from dlmo.measure.targets import find
from dlmo.strategy.plan import schedules
from dlmo.study.recipe import parse
from dlmo.study.shape import untrained_file
from dlmo.study.stages import make_artifact

NETWORK = "resnet8@0.5"
# The teacher changes nothing; which channels go is known only where every layer loses the same share.
RECIPES = (
    "float32",
    "float16",
    "dynamic_int8",
    "int8",
    "qat > int8",
    "prune > float32",
    "prune > dynamic_int8",
    "prune_channels(0.5, scope=layer) > int8",
    "prune_blocks(1) > prune > int8",
    "prune_channels(0.5, scope=layer) > prune_blocks(1) > qat > int8",
    "kd(teacher=resnet8) > prune_channels(0.25, scope=layer) > qat > int8",
)


@pytest.fixture(scope="module")
def plan(digits):
    return schedules(len(digits.train), 28, 1)


@pytest.mark.parametrize("steps", RECIPES)
def test_the_size_is_known_within_3_percent_before_training(workspace, plan, steps):
    recipe = parse(f"{NETWORK} > {steps}")
    predicted = len(untrained_file(workspace, recipe))
    final = len(make_artifact(workspace, recipe, plan, 0).content())
    assert predicted == pytest.approx(final, rel=0.03)


@pytest.mark.parametrize("network", ["wide_resnet_34_1", "mobilenet_v3_small:medium"])
def test_zeros_make_a_large_network_3_times_and_with_int8_10_times_smaller(workspace, network):
    sizes = [
        len(untrained_file(workspace, parse(f"{network} > {steps}")))
        for steps in ("float32", "prune > float32", "prune > dynamic_int8")
    ]
    assert sizes[0] > 1_000_000 and sizes[1] < sizes[0] / 3 and sizes[2] < sizes[0] / 10


def test_ram_is_known_within_3_percent_before_training(workspace, plan):
    """By the arena of TensorFlow Lite Micro: counted, not measured."""
    pytest.importorskip("tflite_micro")
    recipe = parse(f"{NETWORK} > int8")
    files = [untrained_file(workspace, recipe), make_artifact(workspace, recipe, plan, 0).content()]
    predicted, final = find("mcu").measure(files, 1, workspace.progress, workspace.golden)
    assert predicted.ram_bytes == pytest.approx(final.ram_bytes, rel=0.03)


def test_the_file_is_made_once(workspace, monkeypatch):
    recipe = parse("resnet8@0.25 > float32")
    first = untrained_file(workspace, recipe)
    monkeypatch.setattr("dlmo.study.conversion.float_content", None)
    assert untrained_file(workspace, recipe) == first
