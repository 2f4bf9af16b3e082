"""A device with a 64-bit Arm processor, under user-mode emulation. Opt-in: `make test-arm` makes the Python for it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dlmo import networks
from dlmo.measure.targets import find
from dlmo.progress import SilentProgress
from dlmo.runtimes.litert import flatbuffer, quantize
from dlmo.runtimes.litert.convert import convert
from dlmo.techniques.fake_quantization import fold_batch_norm

ARM = Path(os.environ.get("DLMO_ARM", "build/arm")).absolute()

pytestmark = [
    pytest.mark.arm,
    pytest.mark.skipif(not (ARM / "run").exists(), reason=f"no {ARM}/run: make test-arm makes it"),
]


@pytest.fixture
def arm_python(tmp_path):
    """Like ARM/run, but what it starts by its own name is emulated too."""
    python, root = tmp_path / "python", ARM / "root"
    (binary,) = (root / "usr/bin").glob("python3.*")
    python.write_text(
        f"#!/bin/sh\nexec qemu-aarch64-static -cpu cortex-a72 -L {root} -0 {python} -E PYTHONHOME={root}/usr "
        f'-E PYTHONPATH={ARM}/site {binary} "$@"\n'
    )
    python.chmod(0o755)
    return python


def test_an_arm_device_is_measured_and_answers_the_same(device, arm_python):
    shape, images = (16, 16, 1), np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), np.uint8)
    torch.manual_seed(0)
    network = networks.build("resnet8@0.25", classes=3, input_shape=shape).eval()
    content = convert(fold_batch_norm(network), shape)
    files = [flatbuffer.shorten_names(content), flatbuffer.shorten_names(quantize.static_int8(content, images))]
    target = find(device.target(arm_python))
    found = target.measure(files, 1, SilentProgress(), images)
    for measured in found:
        print(measured)
        assert measured.accuracy_source.endswith("8 golden images answered by the device as here, within the tolerance")
        assert measured.latency_ms > 0 and (measured.partitions, measured.delegated) == (1, 1.0)
