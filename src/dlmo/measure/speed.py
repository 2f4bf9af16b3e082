"""What many images take, and one image on all cores: the two ways of running that a single latency does not tell."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dlmo.measure.latency import measure_latency
from dlmo.runtimes.litert.interpreter import Runner, predict

MANY = 10_000


@dataclass(frozen=True)
class Speed:
    """Of one file on this machine, with one thread and with all, of which there are `threads`.

    latency_all_ms: one image at batch 1, median. many_s, many_all_s: seconds for MANY images, from opening the file
    and pixels to scores; one interpreter per thread, each with its share of the images.
    """

    threads: int
    latency_all_ms: float
    many_s: float
    many_all_s: float


def measure_speed(
    contents: Sequence[bytes],
    many_seconds: Callable[[bytes], tuple[float, float]],
    progress: Callable[[float], None] = lambda share: None,
) -> list[Speed]:
    """The speed of every file. many_seconds: see `seconds_for_many`, whose answers may be kept.

    Single images are run in turns, as `measure_latency` does; many images file after file.
    """
    threads = os.cpu_count() or 1
    latencies = measure_latency(contents, threads, open_file=Runner)
    found = []
    for index, (content, latency) in enumerate(zip(contents, latencies)):
        found.append(Speed(threads, latency.p50_ms, *many_seconds(content)))
        progress((index + 1) / len(contents))
    return found


def seconds_for_many(content: bytes, images: np.ndarray) -> tuple[float, float]:
    """What a file takes for MANY real images (uint8 N x H x W x C; repeated where there are fewer), run once: with one
    thread and with all."""
    many = images[np.arange(MANY) % len(images)]
    one, every = (_seconds(content, many, workers) for workers in (1, os.cpu_count() or 1))
    return one, every


def _seconds(content: bytes, images: np.ndarray, workers: int) -> float:
    start = time.perf_counter()
    predict(content, images, workers)
    return time.perf_counter() - start
