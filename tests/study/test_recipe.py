import pytest

from dlmo.errors import UserError
from dlmo.study.recipe import SETUPS, for_setup, parse


@pytest.mark.parametrize(
    "text",
    [
        "mobilenet_v2@0.5 > prune(0.9) > qat > int8",
        "resnet20 > float32",
        "wide_resnet_16_1 > prune(0.8, rounds=60) > float16",
        "resnet8 > prune(rounds=60) > int8(calibration=300)",
        "resnet8 > int8(300)",
        "mobilenet_v2@0.5 > prune_channels(0.5) > prune(0.9) > float32",
        "resnet20 > prune_channels(macs=0.4, criterion=taylor, scope=layer, rounds=2) > qat > int8",
    ],
)
def test_text_round_trips(text):
    recipe = parse(text)
    again = parse(str(recipe))
    assert again == recipe
    assert str(again) == str(recipe)


def test_canonical_text_is_kept():
    assert str(parse("mobilenet_v2@0.5 > prune(0.9) > qat > int8")) == "mobilenet_v2@0.5 > prune(0.9) > qat > int8"
    assert str(parse(" resnet20>prune( 0.9 ,rounds = 60 )>int8 ")) == "resnet20 > prune(0.9, rounds=60) > int8"


def test_a_missing_precision_is_float32_or_int8_after_qat():
    assert str(parse("resnet20")) == "resnet20 > float32"
    assert str(parse("resnet20 > qat")) == "resnet20 > qat > int8"


@pytest.mark.parametrize("code", SETUPS)
def test_setups_name_their_recipes(code):
    assert for_setup("resnet20", code).setup == code


@pytest.mark.parametrize(
    "text, message",
    [
        ("resnet20 > prunee(0.5) > int8", 'did you mean "prune"'),
        ("resnet20 > prune(0.5, round=3) > int8", 'did you mean "rounds"'),
        ("resnet20 > prune(1.5) > int8", "less than 1"),
        ("resnet20 > prune(x) > int8", "valid number"),
        ("resnet20 > int8 > prune", "must be the last step"),
        ("resnet20 > qat > float32", "must be followed by"),
        ("resnet20 > qat > prune > int8", "must be followed by"),
        ("resnet20 > prune > prune > int8", "stands twice"),
        ("resnet20 > prune(0.5, sparsity=0.6)", "twice"),
        ("resnet20 > prune(0.5, 60, 3, 4)", "at most 3 values"),
        ("resnet20 > float32(3)", "at most 0 values"),
        ("resnet20 > > int8", "is not a step"),
        ("> int8", "no network"),
        ("resnet20 > prune_channels(0.5, 0.5)", "ratio or macs, not both"),
        ("resnet20 > prune_channels(criterion=size)", "'magnitude', 'taylor'"),
        ("resnet20 > prune > prune_channels", "must come before"),
        ("resnett20 > int8", "did you mean resnet20"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_unknown_setup():
    with pytest.raises(UserError, match='did you mean "FIQ"'):
        for_setup("resnet20", "FIG")
