import pytest

from dlmo.strategy import legality
from dlmo.strategy.space import space_for
from dlmo.study.recipe import parse

SHAPE = (32, 32, 3)


class Answers:
    """Stands for Optuna's trial: answers with what it was given, within the bounds it is asked for."""

    def __init__(self, **values):
        self.values = values

    def suggest_categorical(self, name, choices):
        assert self.values[name] in choices
        return self.values[name]

    def suggest_float(self, name, low, high, step):
        assert low <= self.values[name] <= high and self.values[name] % step == 0
        return self.values[name]


def test_parameters_become_a_recipe():
    space = space_for(("cpu",), 1_000, SHAPE, "auto", (), own=False)
    answers = Answers(network="resnet8", width=0.5, stem="small", kd=True, cut=0.25, form="qat > int8")
    text = "resnet8@0.5 > kd(resnet14, loss=dkd) > prune_channels(0.25, scope=layer) > qat > int8"
    assert str(space.recipe(answers, "resnet14")) == text == str(parse(text))
    answers.values |= {"width": 1.0, "cut": 0.0, "form": "float16"}
    assert str(space.recipe(answers, "resnet8")) == "resnet8 > float16", "nobody teaches himself"
    assert str(space.recipe(answers, None)) == "resnet8 > float16"
    answers.values |= {"width": 0.5, "stem": "medium"}
    assert (
        str(space.recipe(answers, None)) == "resnet8@0.5:medium > float16" == str(parse("resnet8@0.5:medium > float16"))
    )


@pytest.mark.parametrize(
    "shape, stem, stems",
    [
        ((32, 40, 3), "auto", ("small", "medium", "large")),
        ((64, 64, 3), "auto", ("medium", "large")),
        ((96, 96, 3), "auto", ("large",)),
        ((32, 32, 3), "medium", ("medium",)),
    ],
)
def test_resolutions_go_down_from_the_one_for_such_images(shape, stem, stems):
    space = space_for(("cpu",), 1_000, shape, stem, (), False)
    assert space.stems == stems
    smallest = {recipe.network for recipe in space.smallest() if recipe.network.startswith("resnet8")}
    assert smallest == {"resnet8@0.25" if len(stems) == 1 else f"resnet8@0.25:{stems[-1]}"}


def test_named_networks_keep_their_width_and_own_ones_have_no_teacher():
    space = space_for(("cpu",), 1_000, SHAPE, "auto", ("resnet20@0.5",), own=False)
    assert str(space.recipe(Answers(network="resnet20@0.5", kd=False, cut=0.0, form="int8"), "x")) == (
        "resnet20@0.5 > int8"
    )
    own = space_for(("cpu",), 1_000, SHAPE, "auto", ("own:mine",), own=True)
    assert str(own.recipe(Answers(network="own:mine", cut=0.5, form="int8"), None)) == (
        "own:mine > prune_channels(0.5, scope=layer) > int8"
    )


@pytest.mark.parametrize("target, forms", [("cpu", 7), ("mcu", 2), ("npu", 2)])
def test_everything_in_it_is_legal(target, forms):
    space = space_for((target,), 50_000, SHAPE, "auto", (), own=False)
    assert len(space.forms) == forms
    for recipe in space.smallest():
        legality.check(recipe, target)
        assert parse(str(recipe)) == recipe


def test_what_it_begins_with_lies_in_it():
    for space in (
        space_for(("cpu",), 1_000, SHAPE, "auto", (), False),
        space_for(("mcu",), 1_000, SHAPE, "auto", ("own:mine",), True),
    ):
        for parameters in space.first():
            parse(str(space.recipe(Answers(**parameters), "resnet14")))


def test_more_images_bring_deeper_networks():
    assert set(space_for(("cpu",), 1_000, SHAPE, "auto", (), False).networks) < set(
        space_for(("cpu",), 50_000, SHAPE, "auto", (), False).networks
    )


def test_many_images_are_tried_on_a_larger_network_early():
    few, many = (space_for(("cpu",), images, SHAPE, "auto", (), own=False) for images in (1_000, 50_000))
    assert {entry["network"] for entry in few.first()} == {"resnet8"}
    assert many.first()[:-1] == few.first() and many.first()[-1]["network"] == "resnet20"


def test_every_target_must_run_what_is_proposed():
    both, one = (space_for(targets, 1_000, SHAPE, "auto", (), own=False) for targets in (("cpu", "mcu"), ("cpu",)))
    assert "prune > int8" in one.forms and "dynamic_int8" in one.forms
    assert set(both.forms) < set(one.forms) and not any("prune" in form or "dynamic" in form for form in both.forms)
