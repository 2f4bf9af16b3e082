"""Realistic runs, made up: every field a report reads is filled."""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dlmo.measure.statistics import wilson_interval
from dlmo.study.results import Choice, Failure, Mistake, Result, Run, Rung, Search, StepWorth, Trial
from dlmo.training.curve import Epoch

# Name, float size in bytes, accuracy, latency of the float file in ms, parameters, multiply-adds.
NETWORKS = (
    ("mobilenet_v2", 9_213_004, 0.9312, 3.214, 2_236_682, 88_180_000),
    ("mobilenet_v2@0.5", 2_801_232, 0.9174, 1.302, 700_106, 25_600_000),
    ("wide_resnet_16_1@0.25", 61_388, 0.8423, 0.311, 11_322, 1_744_000),
    ("resnet20", 1_103_960, 0.9203, 0.902, 272_474, 40_800_000),
)
# Setup, steps, and what they do to size, accuracy and latency.
SETUPS = (
    ("NQ", "float32", 1.0, 0.0, 1.0),
    ("BLQ", "dynamic_int8", 0.27, -0.001, 0.62),
    ("FIQ", "int8", 0.28, -0.012, 0.41),
    ("F16", "float16", 0.51, 0.0, 1.04),
    ("QAT", "qat > int8", 0.28, -0.003, 0.41),
    ("PRN", "prune(0.9) > float32", 0.24, -0.021, 0.97),
    ("PRQ", "prune > dynamic_int8", 0.26, -0.013, 0.63),
)


def make_result(network: tuple, setup: tuple, test_images: int) -> Result:
    name, size, accuracy, latency, parameters, macs = network
    code, steps, size_factor, gain, speed = setup
    right = round((accuracy + gain) * test_images)
    low, high = wilson_interval(right, test_images)
    integer = code in ("FIQ", "QAT")
    return Result(
        recipe=f"{name} > {steps}",
        setup=code,
        network=name,
        accuracy=right / test_images,
        accuracy_low=low,
        accuracy_high=high,
        validation_accuracy=accuracy + gain + 0.004,
        size_bytes=round(size * size_factor),
        compressed_bytes=round(size * size_factor * (0.33 if code == "PRN" else 0.91)),
        latency_ms=latency * speed,
        latency_p90_ms=latency * speed * 1.07,
        threads=1,
        ram_bytes=None if code == "PRN" else round(size * size_factor * 1.8 + 300_000),
        macs=macs,
        parameters=parameters,
        delegated=0.92 if integer else 1.0,
        partitions=2 if integer else 1,
        seed=0,
        epochs=45 if code in ("QAT", "PRN", "PRQ") else 30,
        seconds=612.4,
        test_images=test_images,
        validation_images=5000,
        sparsity=0.9 if code == "PRN" else 0.0,
        operators={"CONV_2D": 21, "FULLY_CONNECTED": 1, "MEAN": 1},
        float_operators=("MEAN", "SOFTMAX") if code == "FIQ" else (),
        artifact=f"{name}-{code}.tflite",
    )


def make_confusion(classes: int, per_class: int) -> tuple[tuple[int, ...], ...]:
    random = np.random.default_rng(0)
    matrix = np.zeros((classes, classes), int)
    for truth in range(classes):
        for _ in range(per_class):
            wrong = random.random() < 0.04 + 0.22 * (truth % 5 == 3)
            matrix[truth, (truth + random.choice([1, 2, 7])) % classes if wrong else truth] += 1
    return tuple(tuple(map(int, row)) for row in matrix)


def make_curve(epochs: int, ceiling: float) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(e, 2.2 * 0.88**e + 0.1, ceiling * (1 - 0.8**e), ceiling * (1 - 0.75**e), 12.5)
        for e in range(1, epochs + 1)
    )


def make_mistakes(classes: tuple[str, ...], number: int) -> tuple[Mistake, ...]:
    random = np.random.default_rng(1)
    mistakes = []
    for index in range(number):
        file = io.BytesIO()
        small = random.integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(small).resize((32, 32), Image.Resampling.BILINEAR).save(file, "png")
        truth, answer = classes[index % len(classes)], classes[(index + 1) % len(classes)]
        mistakes.append(
            Mistake(file.getvalue(), truth, answer, 0.97 - 0.06 * index, f"test/{truth}/img_{index:04d}.png")
        )
    return tuple(mistakes)


def make_run(classes: tuple[str, ...], test_images: int = 10_000) -> Run:
    results = tuple(make_result(network, setup, test_images) for setup in SETUPS for network in NETWORKS)
    chosen = next(r for r in results if r.recipe == "resnet20 > qat > int8")
    without = "resnet20 > int8"
    worth = (
        StepWorth("qat", without, 0.009, 1.0, 1.003, "better by 0.90 points on 10000 images (p = 0.0021)", True),
        StepWorth(
            "int8",
            "resnet20 > float32",
            -0.003,
            0.28,
            0.41,
            "no difference that 10000 images can show (p = 0.18)",
            True,
        ),
    )
    return Run(
        title="Smallest accurate classifier for cifar10",
        dataset={
            "name": "cifar10",
            "classes": list(classes),
            "train_images": 45_000,
            "validation_images": 5_000,
            "test_images": test_images,
            "input": [32, 32, 3],
            "resize": "fit inside, keep aspect, antialiased bilinear, centre, fill with 128",
            "fingerprint": "9f86d081884c7d659a2feaa0c55ad015",
            "class_counts": {name: 4500 - 300 * index % 1800 for index, name in enumerate(classes)},
            "skipped": [{"file": "train/cat/broken.jpg", "reason": "not an image"}],
            "command": "dlmo optimize cifar10 --max-size 1MB --min-accuracy 0.9",
        },
        target="cpu",
        machine={
            "cpu": "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz",
            "cores": 2,
            "instructions": "avx2 avx512f avx512_vnni amx_int8",
            "system": "Linux",
            "architecture": "x86_64",
        },
        budget={"max_size": "1 MB", "min_accuracy": "90 %", "optimize for": "latency"},
        results=results,
        choice=Choice(
            chosen,
            (
                "309 KB fits the limit of 1 MB",
                "92.1 % on validation images is above the asked 90 %",
                "the fastest of the 4 recipes that meet every limit",
            ),
            worth,
            "For the mid tier the study advises QAT with full integers: it held here. It also advises pruning for "
            "the low tier; here PRN lost 2.1 points and did not pay.",
            make_waterfall(results, chosen),
        ),
        nearest=(),
        notes=(
            "validation images were cut from train, stratified",
            "the delegate (XNNPACK) ran 92 % of nodes",
        ),
        classes=classes,
        confusion=make_confusion(len(classes), test_images // len(classes)),
        mistakes=make_mistakes(classes, 8),
        curves={
            "resnet20: 30 epochs": make_curve(30, 0.92),
            "mobilenet_v2@0.5: 30 epochs": make_curve(30, 0.915),
            "qat resnet20: 15 epochs": make_curve(15, 0.92),
        },
    )


def make_waterfall(results: tuple[Result, ...], chosen: Result) -> tuple[Rung, ...]:
    """The rungs of the chosen recipe, with the figures of its results."""
    verdicts = {"float32": "", "int8": "worse by 0.90 points on 10000 images (p = 0.0021)"}
    steps = ("float32", "int8", "qat")
    rows = [next(r for r in results if r.recipe == f"resnet20 > {step}") for step in steps[:2]] + [chosen]
    return tuple(
        Rung(
            step=step,
            recipe=row.recipe,
            size_bytes=row.size_bytes,
            latency_ms=row.latency_ms,
            ram_bytes=row.ram_bytes,
            validation_accuracy=row.validation_accuracy,
            accuracy=row.accuracy,
            verdict=verdicts.get(step, "no difference that 10000 images can show (p = 0.18)"),
            paid=step != "qat",
        )
        for step, row in zip(steps, rows)
    )


CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture
def run() -> Run:
    return make_run(CIFAR10)


@pytest.fixture
def searched(run: Run) -> Run:
    """Two recipes trained short, one of them long too, one refused."""
    base = Trial("resnet20@0.5 > int8", "FIQ", "resnet20@0.5", 0, 5, 20.0, 80_000, None, 0.2, 400_000, 0.88, 5000)
    refused = Trial("resnet20 > float32", "NQ", "resnet20", 0, 0, 4.0, refused="1,103,960 bytes (allowed 100,000)")
    trials = (base, refused, replace(base, recipe="resnet20@0.25 > int8"), replace(base, epochs=30))
    return replace(run, search=Search(trials, "the time is up", 300.0, 0.012))


@pytest.fixture
def no_choice(run: Run) -> Run:
    """Nothing met the limits."""
    nearest = (
        "mobilenet_v2@0.5 > int8: 784 KB is 684 KB over the limit of 100 KB",
        "wide_resnet_16_1@0.25 > qat > int8: 84.3 % accuracy is 5.7 points under the asked 90 %",
    )
    return replace(run, choice=None, nearest=nearest, budget={"max_size": "100 KB", "min_accuracy": "90 %"})


@pytest.fixture
def failing(run: Run) -> Run:
    """One recipe of the run failed."""
    error = "RuntimeError: shape '[3, 3]' is invalid <b>for</b> input of size 27"
    return replace(run, failures=(Failure("resnet20 > kd > int8", "KD+FIQ", "resnet20", 0, error),))


@pytest.fixture
def with_classes() -> Callable[[int], Run]:
    """A run with that many classes, one of them with a name that tries to break out."""

    def make(number: int) -> Run:
        names = [f"traffic sign {index:02d}" for index in range(number)]
        names[1] = "<script>alert(1)</script>"
        return make_run(tuple(names), test_images=360 if number == 2 else 10_000)

    return make


@pytest.fixture
def on_mcu(run: Run) -> Run:
    """The same for a target that tells no latency but the parts of its arena, and estimates flash."""

    def told(result: Result) -> Result:
        head = result.size_bytes // 10
        return replace(
            result,
            latency_ms=None,
            latency_p90_ms=None,
            latency_source="not measured: no device here",
            ram_bytes=head + 7_000,
            ram_source="counted by the runtime",
            arena_head=head,
            arena_persistent=7_000,
            flash_bytes=result.size_bytes + 90_000,
            flash_source="estimated",
        )

    results = tuple(map(told, run.results))
    chosen = next(r for r in results if r.recipe == run.choice.result.recipe)
    worth = tuple(replace(step, latency_ratio=None, ram_ratio=0.31) for step in run.choice.worth)
    choice = replace(run.choice, result=chosen, worth=worth, waterfall=make_waterfall(results, chosen))
    return replace(run, target="mcu", results=results, choice=choice)
