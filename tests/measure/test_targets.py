"""Targets: by name, and what each measures of the same small file."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from dlmo import networks
from dlmo.errors import UserError
from dlmo.measure.targets import find
from dlmo.progress import SilentProgress
from dlmo.runtimes.litert import flatbuffer, quantize
from dlmo.runtimes.litert.convert import convert
from dlmo.techniques.fake_quantization import fold_batch_norm

SHAPE = (16, 16, 1)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def float_file():
    torch.manual_seed(0)
    return convert(fold_batch_norm(networks.build("resnet8@0.25", classes=3, input_shape=SHAPE).eval()), SHAPE)


@pytest.fixture(scope="module")
def int8_file(float_file, images):
    return flatbuffer.shorten_names(quantize.static_int8(float_file, images))


@pytest.mark.parametrize("name", ["cup", "mcu:x", "cpu:2", "npu:ethos-u1", ""])
def test_what_is_no_target_is_refused(name):
    pytest.importorskip("tflite_micro")
    pytest.importorskip("ethosu")
    with pytest.raises(UserError) as caught:
        find(name)
    assert "\n" not in str(caught.value)


def test_this_machine_measures_everything(int8_file, images):
    target = find("cpu")
    assert target.predict(int8_file, images, lambda share: None).shape == (20, 3)
    (found,) = target.measure([int8_file], 1, SilentProgress(), images)
    assert 0 < found.latency_ms <= found.latency_p90_ms and found.latency_source == "measured"
    assert (found.partitions, found.delegated, found.arena_head) == (1, 1.0, None)
    assert target.tells_latency


def test_a_microcontroller_counts_its_arena_and_tells_no_latency(int8_file, images):
    pytest.importorskip("tflite_micro")
    target = find("mcu")
    assert target.predict(int8_file, images, lambda share: None).shape == (20, 3)
    (found,) = target.measure([int8_file], 1, SilentProgress(), images)
    assert found.ram_bytes == found.arena_head + found.arena_persistent
    # The two largest tensors that live at once: the output of the first convolution and of the second.
    assert found.arena_head >= 2 * 16 * 16 * 4
    assert found.latency_ms is None and not target.tells_latency
    assert found.ram_source != "measured"
    assert target.identity() != find("cpu").identity()
    assert target.seconds_to_predict(10, 1_000_000) == pytest.approx(2 * target.seconds_to_predict(5, 1_000_000))


def test_what_another_runtime_measured_is_not_trusted(monkeypatch):
    before = find("cpu").identity()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    assert find("cpu").identity() != before


def test_an_npu_is_estimated_by_its_compiler(int8_file, float_file, images):
    pytest.importorskip("ethosu")
    small, large = find("npu:ethos-u55-32"), find("npu:ethos-u55-256")
    (slow,), (fast,) = (target.measure([int8_file], 1, SilentProgress(), images) for target in (small, large))
    assert slow.cycles > fast.cycles > 0
    assert fast.latency_ms == pytest.approx(1000 * fast.cycles / 500e6)
    assert (fast.delegated, fast.partitions) == (1.0, 1)
    assert fast.ram_bytes > 0 and 0 < fast.flash_bytes < len(int8_file)
    assert "estimated by Vela" in fast.latency_source and "ethos-u55-256" in fast.ram_source
    (left,) = large.measure([flatbuffer.shorten_names(float_file)], 1, SilentProgress(), images)
    assert (left.delegated, left.latency_ms) == (0.0, None)
    assert find("npu").name == "npu:ethos-u55-128"


def test_naming_a_target_needs_neither_torch_nor_a_runtime_that_is_not_asked_for():
    probe = "import sys; from dlmo.measure.targets import find; find('cpu'); "
    probe += "print([m for m in ('torch', 'tflite_micro', 'ethosu') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
