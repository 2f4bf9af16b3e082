"""What the jobs share, told of a run."""

import pytest
from PIL import Image
from rich.console import Console

from dlmo.report.terminal import print_run
from dlmo.strategy.job import Options
from dlmo.strategy.optimize import optimize
from dlmo.strategy.study import study


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
    assert first.startswith(f'{run.choice.result.recipe} is no better than always answering "free", which is right on ')
    assert others and run.choice.advice == "", "what the study advises cannot be told by it"
    print_run(run, Console(width=80))
    assert "no better than always answering" in capsys.readouterr().out
    plain = study(guesses, network="resnet8@0.25", setup="NQ", options=options)
    assert any("no better than always answering" in note for note in plain.notes)


def test_a_choice_that_learned_something_is_no_guess(shared_store):
    run = optimize("digits", network="resnet8@0.25", options=Options(epochs=3, store=shared_store))
    assert run.choice.result.accuracy > 0.5
    assert not any("no better than" in line for line in (*run.choice.reasons, *run.notes))
