"""The study's grids, with the digits in the place of CIFAR-10."""

import pytest
from typer.testing import CliRunner

from dlmo.cli import app
from dlmo.data import cifar
from dlmo.errors import UserError
from dlmo.strategy import paper
from dlmo.strategy.job import prepare
from dlmo.strategy.options import Options
from dlmo.strategy.paper import Asked, study_paper


@pytest.fixture
def on_digits(monkeypatch):
    """Every data set is the digits, and there."""
    monkeypatch.setattr(cifar, "find_release", lambda release, place: None)
    monkeypatch.setattr(paper, "prepare", lambda source, *others: prepare("digits", *others))


def test_distillation_stands_beside_plain_training_with_as_many_updates(on_digits, shared_store, tmp_path):
    options = Options(epochs=1, store=shared_store, out=tmp_path)
    study = study_paper(
        Asked(None, "paper-kd", ["mobilenet_v3_small"], ["KD,KD+F16"], kd="kd(resnet8@0.25)", options=options)
    )
    results = study.runs["cifar10"].results
    assert [result.setup for result in results] == ["NQ", "KD", "KD+F16"]
    assert {result.epochs for result in results} == {1}
    assert "--kd 'kd(resnet8@0.25)'" in study.runs["cifar10"].title
    claims = {finding.claim: finding for finding in study.findings}
    assert len(claims["v3 collapses with a teacher (to 60.5 %)"].cases) == 1
    text = (tmp_path / "study.md").read_text()
    assert "distillation, measured again" in text and "dlmo study paper-kd" in text
    assert "| mobilenet_v3_small | cifar10 |" in text and "60.5" in text
    assert "cifar10, mobilenet_v3_small, KD, seed 0: 1 epochs" in text
    told = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "v3 collapses with a teacher" in told.output and "KD+F16" in told.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"network": ["resnet8"]}, "paper-kd: the study has no network resnet8; it has mobilenet_v1"),
        ({"setup": ["PRN"]}, 'paper-kd: the study has no setup "PRN"; it has NQ, KD, KD\\+F16'),
        ({"kd": "kd(resnet57)"}, "resnet56"),
        ({"dataset": ["cifar100"]}, "--dataset cifar100 is not the study's; it has cifar10"),
        ({"options": Options(time=None, target="mcu")}, "--target mcu"),
    ],
)
def test_what_the_grid_has_not_is_refused_first(on_digits, arguments, message):
    with pytest.raises(UserError, match=message):
        study_paper(Asked(None, "paper-kd", **arguments))
