"""Recipes that cut channels down to a size, a latency or a share, from text to files."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from dlmo.errors import UserError
from dlmo.networks.counting import count_module
from dlmo.strategy import legality
from dlmo.strategy.plan import schedules
from dlmo.study import cutting
from dlmo.study.recipe import Float32, Int8, parse
from dlmo.study.stages import make_artifact, trainings_of
from dlmo.study.store import Store
from dlmo.study.trainings import check_steps
from dlmo.study.workspace import build_network, load_network
from dlmo.techniques.channel_pruning import file_layers

PLAN = schedules(64, 16, 2)
NETWORK = "resnet8@0.5"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("cutting"))


@pytest.fixture
def few(workspace, store):
    """64 digits and a store of its own."""
    data = workspace.dataset
    count = np.arange(64)
    small = replace(data, train=data.train.take(count), validation=data.validation.take(count), fingerprint="64 digits")
    return replace(workspace, dataset=small, store=store)


def made(workspace, text, network=NETWORK):
    recipe = parse(f"{network} > {text}")
    check_steps(workspace, recipe)
    return make_artifact(workspace, recipe, PLAN, 0)


@pytest.mark.parametrize("precision, size", [("int8", 16_000), ("float32", 24_000), ("qat > int8", 16_000)])
def test_the_file_has_the_size(precision, size, few):
    content = made(few, f"prune_channels(size={size}, epochs=1, round_to=1) > {precision}").content()
    assert 0.95 * size < len(content) <= size


def test_the_latency_is_what_the_table_says(few):
    name = "resnet8@2"  # in int8, or of a smaller one, channels cost hardly anything on a fast processor
    network = build_network(few, name).eval()
    table = cutting.latency_table(few, name, network, Float32())

    def total(module) -> float:
        return sum(table(shape) for _, shape in file_layers(module, few.dataset.input_shape)) / 1000

    wanted = 0.85 * total(network)
    artifact = made(few, f"prune_channels(latency={wanted:.6f}, epochs=1) > float32", name)
    assert total(load_network(few, artifact.trained)) <= wanted + 1e-6
    assert len(list((few.store.root / "latency").iterdir())) == 2, "the table, and the file that it would cut: once"


@pytest.mark.parametrize("measured, share", [(1.25, 0.8), (0.9, 1.0), (9.0, 0.7)])
def test_where_layers_in_a_row_take_longer_more_is_cut(measured, share, few, monkeypatch):
    network = build_network(few, NETWORK).eval()
    cutting.latency_table(few, NETWORK, network, Int8())
    wanted = 0.9 + measured / 100  # another question each time
    step = parse(f"{NETWORK} > prune_channels(latency={wanted}) > int8").further_trainings[0]
    seen = SimpleNamespace(p50_ms=measured * wanted)
    monkeypatch.setattr("dlmo.measure.latency.measure_latency", lambda contents, threads, open_file: [seen])
    target = cutting.target_of(few, step, NETWORK, network, Int8())
    assert target.limit.most == pytest.approx(share * wanted)


def test_keys_follow_what_the_cut_depends_on(few):
    def key(text, workspace=few):
        return trainings_of(workspace, parse(f"{NETWORK} > {text}"), PLAN, 0)[1].key

    assert key("prune_channels > int8") == key("prune_channels > float32") == key("prune_channels(teacher=parent)")
    assert key("prune_channels(size=9KB) > int8") != key("prune_channels(size=9KB) > float32")
    assert key("prune_channels(teacher=none)") != key("prune_channels")
    assert key("kd(resnet8) > prune_channels") != key("prune_channels")

    class OtherMachine(type(few.target)):
        def identity(self):
            return {"cpu": "another"}

    other = replace(few, target=OtherMachine())
    assert key("prune_channels(size=9KB)") == key("prune_channels(size=9KB)", other)
    assert key("prune_channels(latency=1ms)") != key("prune_channels(latency=1ms)", other)


def test_what_the_network_cannot_be_cut_to_is_refused_before_training(few):
    for text in ("prune_channels(size=2KB) > int8", "prune_channels(macs=0.001)"):
        with pytest.raises(UserError, match="is out of reach: with the fewest channels"):
            check_steps(few, parse(f"{NETWORK} > {text}"))
    check_steps(few, parse(f"{NETWORK} > prune_channels(0.9)"))
    for fine in (
        "resnet8@0.25 > prune_channels(0.5, scope=layer)",
        "resnet8@0.25 > prune_channels(0.25, scope=layer, round_to=1)",
    ):
        check_steps(few, parse(fine))
    with pytest.raises(UserError, match="cuts nothing of resnet8@0.25: widths stay multiples of round_to=8"):
        check_steps(few, parse("resnet8@0.25 > prune_channels(0.125, scope=layer)"))


def test_blocks_that_cannot_be_left_out_are_refused_before_training(few):
    with pytest.raises(UserError, match=r"macs=0\.01 is out of reach: without any of its 1 residual blocks"):
        check_steps(few, parse(f"{NETWORK} > prune_blocks(macs=0.01)"))
    with pytest.raises(UserError, match="no residual block that could be left out"):
        check_steps(few, parse("vgg@0.25 > prune_blocks"))
    with pytest.raises(UserError, match=r'"prune_blocks\(0.25\)" leaves out no block of resnet8@0.5; give a larger'):
        check_steps(few, parse(f"{NETWORK} > prune_blocks(0.25)"))
    check_steps(few, parse(f"{NETWORK} > prune_channels(0.6) > prune_blocks(macs=0.01)"))  # only the cut tells
    with pytest.raises(UserError, match=r"macs=0\.01 is out of reach"):  # widths are known before
        check_steps(few, parse(f"{NETWORK} > prune_channels(0.5, scope=layer) > prune_blocks(macs=0.01)"))


def test_what_follows_works_on_the_blocks_that_are_left(few):
    """Through the store: each stage builds the network of the one before."""
    network = "resnet14@0.25"
    artifact = made(few, "prune_channels(0.4, epochs=1) > prune_blocks(0.6, epochs=2) > prune(0.5) > int8", network)
    whole = count_module(build_network(few, network), few.dataset.input_shape)
    smaller = load_network(few, artifact.trained)
    assert count_module(smaller, few.dataset.input_shape).macs < 0.6 * whole.macs
    assert len(artifact.trained.left_out) == round(0.6 * 4) and artifact.trained.shapes
    gone = tuple(f"{name}." for name in artifact.trained.left_out)
    assert not any(name.startswith(gone) for name in smaller.state_dict())
    teacher = artifact.trained.folder / "weights.safetensors"
    make_artifact(few, parse(f"{NETWORK} > kd({teacher}, loss=attention) > float32"), PLAN, 0)


def test_latency_is_this_machines(few):
    recipe = parse(f"{NETWORK} > prune_channels(latency=1ms) > int8")
    legality.check(recipe, "cpu")
    with pytest.raises(UserError, match="not those of target mcu; give size= or macs="):
        legality.check(recipe, "mcu")


def test_the_network_before_the_cut_teaches(few):
    trained = made(few, "prune_channels(macs=0.5, epochs=2)").trained
    answers = few.store.root / "answers"
    views = len(list(answers.iterdir()))
    assert views >= 1
    alone = made(few, "prune_channels(macs=0.5, epochs=2, teacher=none)").trained
    assert len(list(answers.iterdir())) == views, "nobody was asked"
    first, second = (load_network(few, each).state_dict() for each in (trained, alone))
    assert any(first[name].shape != second[name].shape or (first[name] != second[name]).any() for name in first)


def test_a_recipes_own_teacher_stays(few):
    plain = trainings_of(few, parse(f"{NETWORK} > kd(resnet8) > prune_channels"), PLAN, 0)[-1]
    without = trainings_of(few, parse(f"{NETWORK} > kd(resnet8) > prune_channels(teacher=parent)"), PLAN, 0)[-1]
    assert plain.key == without.key


def test_the_time_of_the_teachers_answers_is_planned():
    plan = replace(schedules(8_000, 16, 40), epoch_seconds=3.0)
    with_parent, alone = (parse(f"resnet8 > prune_channels(teacher={who})").steps[0] for who in ("parent", "none"))
    assert plan.seconds_of(alone) == 3.0 * plan.cut.epochs
    assert plan.seconds_of(with_parent) == 3.0 * plan.cut.epochs + plan.cut.epochs // 4 * 1.0
