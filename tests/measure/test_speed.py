import os
from functools import partial

import pytest
import torch
from torch import nn

from dlmo.measure import speed
from dlmo.runtimes.litert.convert import convert


@pytest.fixture(scope="module")
def content():
    torch.manual_seed(0)
    return convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), (8, 8, 1))


def test_every_file_is_run_on_all_images_by_one_thread_and_by_all(content, random_images, monkeypatch):
    ran = []

    def watched(content, images, workers):
        ran.append((len(images), workers))

    monkeypatch.setattr(speed, "predict", watched)
    told = []
    many = partial(speed.seconds_for_many, images=random_images(64, 8))
    first, second = speed.measure_speed([content, content], many, told.append)
    cores = os.cpu_count()
    assert ran == [(10_000, 1), (10_000, cores)] * 2
    assert first.threads == second.threads == cores
    assert first.latency_all_ms > 0 and told == [0.5, 1.0]


def test_the_seconds_are_those_of_running_the_file(content, random_images, monkeypatch):
    clock = [0.0]

    def takes_a_millisecond_each(content, images, workers):
        clock[0] += len(images) / 1000 / workers

    monkeypatch.setattr(speed, "predict", takes_a_millisecond_each)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(speed.os, "cpu_count", lambda: 4)
    assert speed.seconds_for_many(content, random_images(64, 8)) == (10.0, 2.5)
