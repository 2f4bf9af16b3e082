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
        "resnet20 > prune_channels(size=96000, teacher=none) > int8",
        "resnet20 > prune_channels(0.25) > prune_blocks(0.5, rounds=2) > prune(0.5) > int8",
        "resnet20 > prune_blocks(macs=0.4, teacher=none, epochs=3) > qat > int8",
        "resnet20 > prune(0.88, epochs=12, teacher=parent) > int8",
        "resnet20 > prune_channels(latency=0.07) > dynamic_int8",
        "resnet20 > kd > float16",
        "resnet20 > kd(wide_resnet_40_2, loss=dkd, temperature=4, beta=6, standardize=true) > prune > qat > int8",
        "resnet8 > kd(self, generations=2, views=0) > int8",
        "resnet8 > kd(loss=hint, weight=0.5, labels=1) > float32",
        "resnet8 > kd(nets/teacher.pt2, loss=dkd, warmup=0.2) > float32",
        "resnet8 > kd(teacher=runs/lr=0.1/weights.safetensors) > int8",
        "resnet8 > kd(nets/teacher.pth, network=resnet20:medium) > float32",
        "resnet8 > kd(scheme=online) > float32",
        "resnet8 > kd(self, loss=shallow) > float32",
        "resnet20 > mixed",
        "resnet20 > prune_channels(0.5) > mixed(drop=0.01)",
        "resnet20 > mixed(size=96000, calibration=300)",
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


@pytest.mark.parametrize(
    "given, canonical",
    [
        ("size=96KB", "size=96000"),
        ("size=96 KiB", "size=98304"),
        ("latency=70us", "latency=0.07"),
        ("latency=2", "latency=2"),
    ],
)
def test_limits_have_units(given, canonical):
    recipe = parse(f"resnet20 > prune_channels({given}) > int8")
    assert str(recipe) == f"resnet20 > prune_channels({canonical}) > int8"
    assert parse(str(recipe)) == recipe


@pytest.mark.parametrize("code", [*SETUPS, "KD", "KD+F16", "KD+PRQ", "KD+QAT"])
def test_setups_name_their_recipes(code):
    assert for_setup("resnet20", code).setup == code


def test_what_a_recipe_with_a_teacher_trains():
    recipe = parse("resnet20 > kd(resnet56) > prune > qat > int8")
    assert recipe.setup == "KD+PRN+QAT+FIQ"
    assert [step.name for step in recipe.further_trainings] == ["prune", "qat"]
    assert recipe.kd.teacher == "resnet56"
    assert parse("resnet20 > prune > float32").kd is None
    assert (
        str(parse("resnet20 > kd(ResNet056@1.0, standardize=True)"))
        == "resnet20 > kd(resnet56, standardize=true) > float32"
    )


def test_views_are_stored_where_only_answers_count():
    def views(text, epochs=60):
        return parse(f"resnet8 > {text}").kd.views_in(epochs)

    assert (views("kd"), views("kd", 3), views("kd(views=5)"), views("kd(views=0)")) == (15, 1, 5, None)
    assert (views("kd(self)", 0), views("kd(self, views=2)", 0)) == (None, 2)
    assert (views("kd(loss=rkd)"), views("kd(loss=projector, views=2)")) == (15, 2)
    assert (views("kd(loss=hint)"), views("kd(scheme=online)"), views("kd(self, loss=shallow)")) == (None, None, None)


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
        ("resnet20 > qat > qat > int8", "stands twice"),
        ("resnet20 > qat > int8(calibration=50)", "takes no calibration"),
        ("resnet20 > prune > prune > int8", "needs a share of zeros"),
        ("resnet20 > prune(0.9) > prune(0.8, epochs=0) > int8", "for a larger share only"),
        ("resnet20 > prune > prune(0.9, epochs=0) > int8", "needs a share of zeros"),
        ("resnet20 > prune(0.5, sparsity=0.6)", "twice"),
        ("resnet20 > prune(0.5, 60, 3, none, 4)", "at most 4 values"),
        ("resnet20 > float32(3)", "at most 0 values"),
        ("resnet20 > > int8", "is not a step"),
        ("> int8", "no network"),
        ("prune(0.9) > int8", 'begins with a step; here its network comes first, as in "resnet20 > prune'),
        ("resnet20 > prune_channels(0.5, 0.5)", "give only one of ratio, macs"),
        ("resnet20 > prune_channels(size=96KB, latency=1ms)", "give only one of size, latency"),
        ("resnet20 > prune_channels(size=big)", 'size "big" is no size'),
        ("resnet20 > prune_channels(size=12)", "greater than or equal to 1000"),
        ("resnet20 > prune_channels(latency=-1)", "is no duration"),
        ("resnet20 > prune_channels(teacher=resnet56)", "'parent' or 'none'"),
        ("resnet20 > prune_channels(criterion=size)", "'magnitude', 'taylor'"),
        ("resnet20 > prune > prune_channels", '"prune_channels" must come before "prune"'),
        ("resnet20 > prune > prune_blocks", '"prune_blocks" must come before "prune"'),
        ("resnet20 > prune_blocks > prune_channels", '"prune_channels" must come before "prune_blocks"'),
        ("resnet20 > prune_blocks(0.5, macs=0.4)", "give ratio or macs, not both"),
        ("resnet20 > prune > kd > int8", "must be the first step"),
        ("resnet20 > kd > kd", "stands twice"),
        ("resnet20 > kd(resnett56)", "did you mean resnet56"),
        ("resnet20 > kd(loss=hints)", 'did you mean "hint"'),
        ("resnet20 > kd(loss=attention, temperature=4)", "attention has no temperature; these have: kd, dkd, dist"),
        ("resnet20 > kd(loss=dist, standardize=true)", "has no standardize"),
        ("resnet20 > kd(warmup=0.1)", "kd has no warmup; these have: dkd"),
        ("resnet20 > kd(teacher.pt2, loss=hint)", "a .pt2 file only answers"),
        ("resnet20 > kd(teacher.pth)", "teacher.pth holds weights alone: add network=NAME"),
        ("resnet20 > kd(teacher.pth, network=resnett56)", "did you mean resnet56"),
        ("resnet20 > kd(resnet56, network=resnet56)", "resnet56 needs none"),
        ("resnet20 > kd(teacher.onnx)", "other weights (.safetensors, .pt, .pth) with network=NAME"),
        ("resnet20 > kd(temperature=0)", "greater than or equal to 0.5"),
        ("resnet20 > kd(scheme=onlne)", "'offline' or 'online'"),
        ("resnet20 > kd(loss=hint, scheme=online)", "loss on answers"),
        ("resnet20 > kd(loss=shallow)", "kd(teacher=self, loss=shallow)"),
        ("resnet20 > kd(generations=2)", "needs teacher=self"),
        ("resnet20 > kd(self, scheme=online, generations=2)", "no generations"),
        ("resnet20 > kd(loss=gram, views=3)", "views needs"),
        ("resnet20 > mixed(size=96KB, drop=0.01)", "size or drop, not both"),
        ("resnet20 > mixed(size=96XB)", "is no size"),
        ("resnet20 > mixed(size=96)", "greater than or equal to 1000"),
        ("resnet20 > prune > mixed", "cannot be stored sparse"),
        ("resnet20 > qat > mixed", "must be followed by"),
        ("resnett20 > int8", "did you mean resnet20"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert message in str(caught.value)


def test_a_size_is_written_in_bytes():
    for text in ("mixed(size=96KB)", "mixed(96KB)"):
        assert str(parse(f"resnet20 > {text}")) == "resnet20 > mixed(96000)"


def test_what_kd_stands_for_in_setups():
    assert str(for_setup("resnet20", "KD+F16")) == "resnet20 > kd > float16"
    taught = for_setup("resnet20", "KD", "kd(resnet110, loss=dkd)")
    assert (str(taught), taught.setup) == ("resnet20 > kd(resnet110, loss=dkd) > float32", "KD")
    assert str(for_setup("resnet20", "NQ", "kd(resnet110)")) == "resnet20 > float32"
    with pytest.raises(UserError, match="give a kd step"):
        for_setup("resnet20", "KD", "prune")


def test_what_prune_stands_for_in_setups():
    assert str(for_setup("resnet8", "PRQ", prune="prune(0.9)")) == "resnet8 > prune(0.9) > dynamic_int8"
    assert for_setup("resnet8", "PRQ", prune="prune(0.9)").setup == "PRQ"
    assert str(for_setup("resnet8", "KD+PRN", prune="prune(0.9)")) == "resnet8 > kd > prune(0.9) > float32"
    assert str(for_setup("resnet8", "QAT", prune="prune(0.9)")) == "resnet8 > qat > int8"
    with pytest.raises(UserError, match='--prune "qat": give a prune step'):
        for_setup("resnet8", "PRQ", prune="qat")


def test_unknown_setup():
    with pytest.raises(UserError, match='did you mean "FIQ"'):
        for_setup("resnet20", "FIG")


def test_a_large_network_is_pruned_further_where_the_recipe_names_no_share():
    plain, named = (parse(f"resnet20 > {step}").steps[0] for step in ("prune", "prune(0.5)"))
    assert [plain.share_of(parameters) for parameters in (0, 249_999, 250_000)] == [0.8, 0.8, 0.88]
    assert [named.share_of(parameters) for parameters in (0, 250_000)] == [0.5, 0.5]
