import pytest

from dlmo.errors import UserError
from dlmo.strategy.legality import check, nearest_legal, without_illegal
from dlmo.study.recipe import SETUPS, for_setup, parse


@pytest.mark.parametrize(
    "target, legal",
    [
        ("cpu", {"NQ", "BLQ", "FIQ", "F16", "QAT", "PRN", "PRQ", "PRN+FIQ"}),
        ("mcu", {"NQ", "FIQ", "QAT"}),
        ("npu", {"FIQ", "QAT"}),
        ("npu:ethos-u65-512", {"FIQ", "QAT"}),
    ],
)
def test_what_each_target_runs(target, legal):
    recipes = [for_setup("resnet8", code) for code in ("NQ", "BLQ", "FIQ", "F16", "QAT", "PRN", "PRQ", "PRN+FIQ")]
    kept, notes = without_illegal(recipes, target)
    assert {recipe.setup for recipe in kept} == legal
    assert len(notes) == (0 if target == "cpu" else 1)
    for recipe in recipes:
        if recipe.setup in legal:
            check(recipe, target)
        else:
            with pytest.raises(UserError):
                check(recipe, target)


@pytest.mark.parametrize(
    "recipe, reason, nearest",
    [
        ("resnet8 > prune > dynamic_int8", "DENSIFY", "resnet8 > int8"),
        ("resnet8 > dynamic_int8", "hybrid", "resnet8 > int8"),
        ("resnet8 > float16", "float16", "resnet8 > int8"),
        ("resnet8 > mixed(drop=0.01)", "4-bit", "resnet8 > int8"),
        ("resnet8 > prune(0.9) > qat > int8", "DENSIFY", "resnet8 > qat > int8"),
        ("resnet8 > prune > int8(calibration=50)", "DENSIFY", "resnet8 > int8(50)"),
    ],
)
def test_a_microcontroller_refuses_with_the_reason_and_the_nearest_legal_recipe(recipe, reason, nearest):
    with pytest.raises(UserError, match=reason) as caught:
        check(parse(recipe), "mcu")
    assert f'nearest: "{nearest}"' in str(caught.value)
    check(parse(nearest), "mcu")


def test_the_nearest_recipe_is_always_legal():
    for target in ("mcu", "npu"):
        for code in SETUPS:
            for network in ("resnet8", "mobilenet_v3_large"):
                check(nearest_legal(for_setup(network, code), target), target)


def test_the_note_names_each_setup_once_with_its_reason():
    recipes = [for_setup(network, code) for network in ("resnet8", "resnet20") for code in ("FIQ", "PRN", "BLQ")]
    (note,) = without_illegal(recipes, "mcu")[1]
    assert note.count("PRN") == 1 and note.count("BLQ") == 1 and "FIQ" not in note
