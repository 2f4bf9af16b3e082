"""The study's claims on results whose answer is known."""

import numpy as np
import pytest

from dlmo.measure.statistics import paired_test
from dlmo.strategy.findings import Measured, findings, findings_on_teaching
from dlmo.study.results import Result

IMAGES = 1000


def result(network: str, setup: str, accuracy: float, size: int, latency: float) -> Result:
    return Result(
        recipe=f"{network} > {setup}", setup=setup, network=network, accuracy=accuracy, accuracy_low=accuracy,
        accuracy_high=accuracy, validation_accuracy=accuracy, size_bytes=size, compressed_bytes=size,
        latency_ms=latency, latency_p90_ms=latency, threads=1, ram_bytes=None, macs=1, parameters=1, delegated=1.0,
        partitions=1, seed=0, epochs=1, seconds=1.0, test_images=IMAGES, validation_images=IMAGES, sparsity=0.0,
        operators={}, float_operators=(), artifact="",
    )  # fmt: skip


def compare(first: Result, second: Result):
    """The better one gets right whatever the other does."""
    image = np.arange(IMAGES) / IMAGES
    return paired_test(image < first.accuracy, image < second.accuracy)


def verdict(claim: str, *results: Result, tested=findings) -> str:
    found = tested({"cifar10": Measured(results, compare)})
    return next(finding.verdict for finding in found if finding.claim.startswith(claim))


PLAIN = result("vgg", "NQ", 0.80, 1000, 1.0)


@pytest.mark.parametrize(
    ("accuracy", "size", "expected"),
    [(0.80, 260, "holds (1 of 1"), (0.70, 260, "does not hold here (0 of 1"), (0.80, 500, "does not hold here")],
)
def test_int8_is_a_quarter_at_equal_accuracy(accuracy, size, expected):
    assert verdict("int8 (FIQ) cuts", PLAIN, result("vgg", "FIQ", accuracy, size, 0.5)).startswith(expected)


def test_int8_slower_is_judged_by_latency():
    assert verdict("int8 (FIQ) is slower", PLAIN, result("vgg", "FIQ", 0.8, 260, 0.5)).startswith("does not hold")
    assert verdict("int8 (FIQ) is slower", PLAIN, result("vgg", "FIQ", 0.8, 260, 9.0)).startswith("holds")


def test_a_claim_that_holds_on_one_of_two_networks_holds_in_part():
    other = result("resnet50", "NQ", 0.80, 1000, 1.0)
    slow = result("vgg", "FIQ", 0.8, 260, 2.0)
    fast = result("resnet50", "FIQ", 0.8, 260, 0.5)
    assert verdict("int8 (FIQ) is slower", PLAIN, other, slow, fast).startswith("holds in part (1 of 2")


def test_two_stems_of_a_network_are_two_cases():
    coarse, whole = (result(f"mobilenet_v2{stem}", "NQ", 0.80, 1000, 1.0) for stem in (":medium", ""))
    slow, fast = result("mobilenet_v2:medium", "FIQ", 0.8, 260, 2.0), result("mobilenet_v2", "FIQ", 0.8, 260, 0.5)
    assert verdict("int8 (FIQ) is slower", coarse, whole, slow, fast).startswith("holds in part (1 of 2")


def test_nothing_measured_cannot_be_told():
    assert verdict("F16", PLAIN) == "cannot be told"


def test_equal_networks_cannot_be_told_apart():
    v2, v3 = result("mobilenet_v2", "NQ", 0.8, 1, 1.0), result("mobilenet_v3_small", "NQ", 0.8, 1, 1.0)
    assert verdict("v3 underperforms", v2, v3) == "cannot be told"


def test_a_tiers_advice_is_held_against_the_pick():
    pruned = result("vgg", "PRQ", 0.80, 100, 1.0)
    assert verdict("low-end", PLAIN, pruned).startswith("holds")
    assert verdict("low-end", PLAIN, pruned, result("vgg", "FIQ", 0.80, 50, 1.0)).startswith("does not hold")


@pytest.mark.parametrize(("networks", "expected"), [(4, "cannot be told"), (5, "holds (1 of 1")])
def test_a_trend_over_few_networks_is_tested_exactly(networks, expected):
    # Perfect order of four comes by chance once in twelve times (either way), of five once in sixty.
    plain = [result(f"resnet{8 + 6 * n}", "NQ", 0.8, 1000 * (n + 1), 1.0) for n in range(networks)]
    pruned = [result(r.network, "PRN", 0.8 + 0.01 * n, 300, 1.0) for n, r in enumerate(plain)]
    assert verdict("PRN pays more on larger", *plain, *pruned).startswith(expected)
    alike = [result(r.network, "PRN", 0.8, 300, 1.0) for r in plain]
    assert verdict("PRN pays more on larger", *plain, *alike).startswith("cannot be told")


def test_advice_is_not_judged_by_itself():
    alone = result("vgg", "PRN", 0.8, 300, 1.0)
    assert verdict("mid-end service", alone) == "cannot be told"


def test_wide_networks_are_no_rivals_of_each_other():
    coarse, whole = result("wide_resnet_34_1:medium", "NQ", 0.7, 1, 1.0), result("wide_resnet_34_1", "NQ", 0.9, 1, 1.0)
    assert verdict("the wide residual network", coarse, whole, PLAIN).startswith("holds (1 of 1")


@pytest.mark.parametrize(
    ("accuracy", "gains", "collapses"),
    [
        (0.85, "holds (1 of 1", "does not hold here (0 of 1"),
        (0.60, "does not hold here", "holds (1 of 1"),
        (0.801, "cannot be told", "does not hold here"),
    ],
)
def test_what_a_teacher_does_to_v3(accuracy, gains, collapses):
    plain, taught = (
        result("mobilenet_v3_small", setup, value, 1, 1.0) for setup, value in (("NQ", 0.8), ("KD", accuracy))
    )
    assert verdict("KD makes", plain, taught, tested=findings_on_teaching).startswith(gains)
    assert verdict("v3 collapses", plain, taught, tested=findings_on_teaching).startswith(collapses)


def test_what_follows_a_teacher_is_compared_with_it():
    taught, pruned = result("mobilenet_v1", "KD", 0.8, 1, 1.0), result("mobilenet_v1", "KD+PRN", 0.7, 1, 1.0)
    assert verdict("KD+PRN", PLAIN, taught, pruned, tested=findings_on_teaching).startswith("does not hold here")
    assert verdict("KD+F16", PLAIN, taught, pruned, tested=findings_on_teaching) == "cannot be told"
