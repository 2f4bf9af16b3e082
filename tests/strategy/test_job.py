"""What the jobs share, told of a run."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dlmo.errors import UserError
from dlmo.report.terminal import print_run
from dlmo.strategy.optimize import optimize
from dlmo.strategy.options import Options, check_options, command_line
from dlmo.strategy.remarks import guessed
from dlmo.strategy.study import study
from dlmo.study.recipe import parse


@pytest.fixture
def guesses(tmp_path, random_images):
    """Noise: nothing in it tells the classes, of which one has most images."""
    noise = random_images(90)
    for index, pixels in enumerate(noise):
        folder = tmp_path / "noise" / ("taken" if index % 9 == 0 else "free")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[:, :, 0]).save(folder / f"{index}.png")
    return tmp_path / "noise"


def test_a_choice_that_only_guesses_says_so_before_anything_else(guesses, shared_store, capsys):
    options = Options(epochs=1, store=shared_store)
    run = optimize(guesses, service="low", network="resnet8@0.25", options=options)
    first, *others = run.choice.reasons
    assert first.startswith(f'{run.choice.result.recipe}: no better than always answering "free", which is right on ')
    assert others and run.choice.advice == "", "what the study advises cannot be told by it"
    print_run(run, Console(width=80))
    assert "no better than always answering" in capsys.readouterr().out
    plain = study(guesses, network="resnet8@0.25", setup="NQ", options=options)
    assert any("no better than always answering" in note for note in plain.notes)


def test_a_choice_that_learned_something_is_no_guess(shared_store):
    run = optimize("digits", network="resnet8@0.25", options=Options(epochs=3, store=shared_store))
    assert run.choice.result.accuracy > 0.5
    assert not any("no better than" in line for line in (*run.choice.reasons, *run.notes))


def test_few_images_that_are_all_right_are_no_guess():
    labels = np.array([0] * 18 + [1] * 2)
    dataset = SimpleNamespace(validation=SimpleNamespace(labels=labels), classes=("free", "taken"))

    def told(accuracy, images=20, epochs=1):
        return guessed(
            SimpleNamespace(recipe="r", validation_accuracy=accuracy, validation_images=images, epochs=epochs), dataset
        )

    assert told(1.0) == () and told(0.95) == ()
    assert told(0.9)[0].startswith('r: no better than always answering "free", which is right on 90.0 %')
    assert told(55 / 61, 61) != (), "looked at again on 61 images, of which 55 are free"
    assert "train longer" in told(0.9)[0] and "train longer" not in told(0.9, epochs=0)[0]


def test_a_command_is_written_as_the_command_line_reads_it():
    assert command_line("optimize", ["photos"], {"max_size": 1.5e6, "max_latency": 5e-5, "max_drop": 0.01}) == (
        "dlmo optimize photos --max-size 1500000 --max-latency 0.00005 --max-drop 0.01"
    )


def test_a_latency_limit_is_not_for_a_cluster():
    recipes = [parse("resnet8 > prune_channels(latency=1ms) > int8")]
    check_options(Options(), recipes)
    with pytest.raises(UserError, match="--cluster: resnet8 .*: its latency limit is told by layers timed"):
        check_options(Options(cluster="auto"), recipes)
