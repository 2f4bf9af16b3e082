"""What a child process does with a model file it is given; called through `isolated.Child`."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from dlmo.data.preprocessing import Normalization
from dlmo.measure.latency import Latency, measure_latency
from dlmo.measure.memory import run_three_times
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner, predict
from dlmo.runtimes.litert.metadata import read_metadata

Report = Callable[[float], None]


@dataclass(frozen=True)
class Probe:
    """What is known of a file after it was opened and run on black images.

    size: height, width. quantization: scale and zero point of the input, scale 0 for none. ram_bytes: see memory.py.
    macs to float_operators: see flatbuffer.FileFacts. mean, std, labels: from the file's metadata, None where it has
    none.
    """

    size: tuple[int, int]
    channels: int
    layout: str
    batch: int
    classes: int
    input_dtype: str
    output_dtype: str
    quantization: tuple[float, int]
    ram_bytes: int | None
    macs: int
    parameters: int
    operators: dict[str, int]
    float_operators: tuple[str, ...]
    delegated: float
    partitions: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    labels: tuple[str, ...] | None


def probe_file(content: bytes, layout: str, size: list[int] | None, report: Report) -> Probe:
    """Open, run and parse a file; the first call of a child, because it measures memory."""
    runner, ram_bytes = run_three_times(lambda: opener(layout, size)(content), report)
    model = flatbuffer.read(content)
    facts, metadata = flatbuffer.facts_of(model), read_metadata(model, content)
    partitions, delegated = runner.delegation()
    scale, zero_point = runner.input["quantization"]
    return Probe(
        size=runner.input_shape[:2],
        channels=runner.input_shape[2],
        layout=runner.layout,
        batch=runner.batch,
        classes=runner.classes,
        input_dtype=np.dtype(runner.input["dtype"]).name,
        output_dtype=np.dtype(runner.output["dtype"]).name,
        quantization=(float(scale), int(zero_point)),
        ram_bytes=ram_bytes,
        macs=facts.macs,
        parameters=facts.parameters,
        operators=facts.operators,
        float_operators=facts.float_operators,
        delegated=delegated,
        partitions=partitions,
        mean=metadata.normalization and metadata.normalization.mean,
        std=metadata.normalization and metadata.normalization.std,
        labels=metadata.labels,
    )


def scores_of(
    content: bytes, layout: str, size: list[int] | None, normalization: dict, images: np.ndarray, report: Report
) -> np.ndarray:
    """Scores of uint8 images N x H x W x C on all cores, float32 N x classes."""
    done, lock = 0, threading.Lock()

    def ran(count: int) -> None:
        nonlocal done
        with lock:
            done += count
        report(done / len(images))

    return predict(
        content, images, open_file=opener(layout, size), normalization=Normalization(**normalization), ran=ran
    )


def latency_of(content: bytes, layout: str, size: list[int] | None, threads: int, report: Report) -> Latency:
    return measure_latency([content], threads, report, open_file=opener(layout, size))[0]


def opener(layout: str, size: list[int] | None) -> Callable[..., Runner]:
    """Opens a file's bytes the way the user wants it."""
    return partial(Runner, layout=layout, size=None if size is None else tuple(size))
