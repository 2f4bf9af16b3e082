"""The conversion stages: trained network -> float file -> file of the wanted precision."""

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.runtimes.litert import flatbuffer, quantize, sparse
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.study.int8_repair import Judge, repaired_int8
from dlmo.study.mixed import mixed_file
from dlmo.study.recipe import DynamicInt8, Float16, Float32, Int8, Mixed, Precision
from dlmo.study.results import Repair

# A pruned file must compute what the dense one does, bit by bit; checked on this many images.
_CHECKED_IMAGES = 8


def float_content(network, dataset: Dataset, fake_quantized: bool) -> bytes:
    """The network as the converter writes it, names and all: float, or int8 with its trained scales."""
    from dlmo.techniques.fake_quantization import exportable, fold_batch_norm

    prepared = exportable(network) if fake_quantized else fold_batch_norm(network)
    return convert(prepared, dataset.input_shape, quantized=fake_quantized)


def artifact_content(
    content: bytes, precision: Precision, dataset: Dataset, seed: int, *, fake_quantized: bool, pruned: bool
) -> tuple[bytes, Repair | None]:
    """The deployable file: quantized after training where QAT has not done it, zeros encoded, names shortened.

    Also returns what was needed to keep the accuracy in integers, None for other precisions.
    """
    repair = None
    if isinstance(precision, Float32) or fake_quantized:
        quantized = content
    elif isinstance(precision, Float16):
        quantized = quantize.float16(content)
    elif isinstance(precision, DynamicInt8):
        quantized = quantize.weight_only_int8(content) if pruned else quantize.dynamic_int8(content)
    elif isinstance(precision, Int8):
        calibration = calibration_images(dataset, precision.calibration, seed)
        quantized, repair = repaired_int8(content, dataset, calibration, Judge(content, dataset))
    elif isinstance(precision, Mixed):
        calibration = calibration_images(dataset, precision.calibration, seed)
        quantized, repair = mixed_file(content, precision, dataset, calibration, Judge(content, dataset))
    else:
        raise TypeError(f"no conversion for {precision.name}")
    dense = flatbuffer.shorten_names(quantized)
    if not pruned:
        return dense, repair
    encoded = sparse.encode_zeros(dense)
    images = dataset.train.images[:_CHECKED_IMAGES]
    plain, restored = (runner.run(runner.prepare(images)) for runner in (Runner(dense), Runner(encoded)))
    if not np.array_equal(plain, restored):
        raise RuntimeError("the file with encoded zeros computes other scores than the dense one")
    return encoded, repair


def calibration_images(dataset: Dataset, count: int, seed: int) -> np.ndarray:
    """`count` training images, drawn without regard to class; all of them where there are fewer."""
    order = np.random.default_rng(seed).permutation(len(dataset.train))
    return dataset.train.images[np.sort(order[:count])]
