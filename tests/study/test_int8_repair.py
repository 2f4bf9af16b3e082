from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.runtimes.litert.quantize import static_int8
from dlmo.study import int8_repair
from dlmo.study.conversion import float_content
from dlmo.study.recipe import parse
from dlmo.study.results import Repair
from dlmo.study.stages import make_artifact
from dlmo.study.trainings import train
from dlmo.study.workspace import NetworkPlan, load_network
from dlmo.training.schedule import Schedule

ONE_EPOCH = Schedule(1, 32, 0.05, 0.1)
PLAN = NetworkPlan(ONE_EPOCH, ONE_EPOCH, Schedule(1, 32, 0.01, 0.1, clip_norm=1.0), ONE_EPOCH)
LEARNT = replace(PLAN, train=ONE_EPOCH.lasting(10))  # of one that still guesses, half a point is chance


@pytest.mark.parametrize("steps", ["int8", "qat > int8"])
def test_mobilenet_v3_is_one_int8_partition(workspace, steps):
    artifact = make_artifact(workspace, parse(f"mobilenet_v3_small@0.5 > {steps}"), PLAN, 0)
    content = artifact.content()
    assert Runner(content).delegation() == (1, 1.0)
    assert flatbuffer.facts(content).float_operators == ()


def test_the_first_rung_is_enough_for_a_plain_network(workspace):
    repair = make_artifact(workspace, parse("resnet8@0.5 > int8"), LEARNT, 0).repair()
    assert repair.rung == "min/max ranges" and repair.words() == ""


def test_a_rung_that_loses_accuracy_is_followed_by_the_next(workspace, monkeypatch):
    """A range that clips everything away stands for a network that plain ranges break."""
    broken = partial(static_int8, range_rule=lambda values: (0.0, 1e-3))
    monkeypatch.setattr(int8_repair, "RUNGS", {"broken": broken} | int8_repair.RUNGS)
    network = load_network(workspace, train(workspace, "resnet8@0.5", LEARNT, 0))
    content = float_content(network, workspace.dataset, False)
    calibration = workspace.dataset.train.images[:50]
    judge = int8_repair.Judge(content, workspace.dataset)
    file, repair = int8_repair.repaired_int8(content, workspace.dataset, calibration, judge)
    assert repair.rung == "min/max ranges"
    assert list(repair.lost) == ["broken", "min/max ranges"]
    assert repair.lost["broken"] > 0.005 >= repair.lost["min/max ranges"]
    assert "broken lost" in repair.words()
    assert 1 <= len(repair.layers) <= 3 and all(layer in repair.words() for layer in repair.layers)
    assert np.dtype(Runner(file).input["dtype"]) == np.int8


def test_channels_that_no_common_scale_fits_are_equalized(lopsided, digits):
    """Ranges cannot mend this one: whatever they are, small channels drown between the steps of large ones."""
    judge = int8_repair.Judge(lopsided, digits)
    file, repair = int8_repair.repaired_int8(lopsided, digits, digits.train.images[:100], judge)
    assert repair.rung == "equalized channels"
    assert min(lost for rung, lost in repair.lost.items() if rung != repair.rung) > 0.3
    assert repair.lost[repair.rung] < 0.03
    assert judge.lost(file) == repair.lost[repair.rung]
    assert any("CONV_2D" in layer and "dB" in layer for layer in repair.layers)


def test_other_precisions_need_no_repair(workspace):
    assert make_artifact(workspace, parse("resnet8@0.5 > float16"), PLAN, 0).repair() is None


def test_words_name_the_rung_and_what_was_tried():
    repair = Repair("99.9 % ranges", {"min/max ranges": 0.021, "99.9 % ranges": 0.004}, 500)
    expected = "99.9 % ranges (min/max ranges lost 2.1, 99.9 % ranges lost 0.4 points on 500 validation images)"
    assert repair.words() == expected
    failed = Repair("min/max ranges", {"min/max ranges": 0.02, "99.9 % ranges": 0.03}, 500, allowed=0.005)
    assert failed.words().endswith("points on 500 validation images), which is not enough")
    blamed = Repair(repair.rung, repair.lost, 500, ("4 CONV_2D 1x8x8x32 (9 dB)",))
    assert blamed.words() == f"{expected[:-1]}; it was lost in 4 CONV_2D 1x8x8x32 (9 dB))"


def test_a_loss_of_just_what_is_allowed_is_allowed(digits, monkeypatch):
    """181 of 200 right less 180 of 200: as shares, their difference is above 0.005 by a rounding."""
    part = digits.validation.take(np.arange(200))
    scores = {b"float": 181, b"int8": 180}

    def predict(content, images):
        wrong = np.arange(len(images)) >= scores[content]
        return np.eye(10)[(part.labels + wrong) % 10]

    monkeypatch.setattr(int8_repair, "predict", predict)
    judge = int8_repair.Judge(b"float", replace(digits, validation=part))
    assert 181 / 200 - 180 / 200 > 0.005 and judge.lost(b"int8") == 0.005
