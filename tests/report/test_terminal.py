import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from dlmo.errors import UserError
from dlmo.measure.evaluate import Evaluation
from dlmo.report import wording
from dlmo.report.document import run_of
from dlmo.report.terminal import print_evaluation, print_run, results_table


def shown(printable, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(printable)
    return console.file.getvalue()


def printed(run, width=80):
    console = Console(file=io.StringIO(), width=width)
    print_run(run, console)
    return console.file.getvalue()


def test_table_keeps_the_key_facts_in_80_columns(run):
    lines = shown(results_table(run)).splitlines()
    assert all(len(line) <= 80 for line in lines)
    chosen = [line for line in lines if line.startswith(">")]
    assert len(chosen) == 1
    assert chosen[0].split() == [">", "resnet20", "QAT", "309", "92.1", "91.7", "(91.2-92.3)", "0.370"]
    assert sum("resnet20" in line for line in lines) == 7
    assert any(line.startswith("*") for line in lines)


def test_nothing_is_cut_off(run):
    text = printed(run)
    assert "\u2026" not in text
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_long_names_fold_without_losing_characters(run):
    name = "a_network_of_a_very_long_name_indeed@0.125"
    long = replace(run.results[0], network=name, recipe=f"{name} > prune(sparsity=0.85, rounds=70) > float32")
    text = shown(results_table(replace(run, results=(long,), choice=None)))
    assert "".join(line[3:23].strip() for line in text.splitlines()[2:]).startswith(name)
    assert "(92.6-93.6)" in text


def test_says_what_the_numbers_rest_on(run):
    text = " ".join(printed(run).split())
    for fact in ("10,000 test images", "1 thread", "Xeon", "95 % interval", "KB", "ms p50", "measured"):
        assert fact in text
    for reason in run.choice.reasons:
        assert reason in text
    assert "did not pay" in text
    assert "p = 0.0021" in text


def test_the_way_to_the_choice_step_by_step(run, on_mcu):
    text = printed(run)
    part = text[text.index("Step by step") : text.index("What each step was worth")]
    rows = [line.split() for line in part.splitlines()]
    assert ["float32", "1,104", "0.902", "92.4", "92.0"] in rows
    assert ["int8", "309", "0.370", "91.2", "90.8", "at", "a", "loss"] in rows
    assert ["qat", "309", "0.370", "92.1", "91.7", "no"] in rows
    assert "latency" not in printed(on_mcu)[printed(on_mcu).index("Step by step") :].split("float32")[0]


def test_a_search_says_what_it_did_and_why_it_stopped(searched):
    text = " ".join(printed(searched).split())
    assert "trained short: 2, of these also long: 1, refused untrained: 1." in text
    assert "Stopped after 5m 00s: the time is up." in text and "1.2 % of that time" in text
    again = run_of(json.loads(json.dumps(searched.to_json())))
    assert again.search == searched.search


def test_no_choice_names_the_nearest(no_choice):
    text = " ".join(printed(no_choice).split())
    assert "Nothing met the limits" in text
    assert "684 KB over the limit of 100 KB" in text
    assert "chosen" not in text.lower()


def test_networks_stay_together_in_given_order(run):
    names = [row.plain for row in results_table(run).columns[1]._cells]
    assert list(dict.fromkeys(names)) == [
        "mobilenet_v2",
        "mobilenet_v2@0.5",
        "wide_resnet_16_1\n@0.25",  # in two lines before its width, not in the middle of a word
        "resnet20",
    ]
    assert names == sorted(names, key=names.index)


def test_seeds_are_told_apart(run):
    both = (run.results[0], replace(run.results[0], seed=1))
    assert "seed" in shown(results_table(replace(run, results=both, choice=None)))
    assert "seed" not in shown(results_table(run))


def test_markup_in_names_is_text(run):
    odd = replace(run.results[0], network="[red]net[/red]")
    assert "[red]net[/red]" in shown(results_table(replace(run, results=(odd,), choice=None)))


def test_estimated_latency_is_marked(run):
    guessed = replace(run.results[0], latency_source="estimated")
    text = printed(replace(run, results=(guessed,), choice=None))
    assert "~3.21" in text
    assert "estimated; ~ not measured" in text


def test_a_run_without_results_prints(run):
    empty = replace(run, results=(), choice=None, machine={}, dataset={}, confusion=(), curves={})
    assert "data set" in printed(empty)


def test_a_run_prints_alike_from_its_results_json(run, no_choice):
    for original in (run, no_choice):
        again = run_of(json.loads(json.dumps(original.to_json())))
        assert printed(again).splitlines()[3:] == printed(original).splitlines()[3:]


@pytest.mark.parametrize("document", [{}, {"dataset": 3}, [], {"results": [{}]}])
def test_a_strange_results_json_is_refused(document):
    with pytest.raises(UserError, match="not written by this version"):
        run_of(document)


def test_evaluation(run):
    result = run.results[0]
    names = set(Evaluation.__dataclass_fields__) & set(result.__dataclass_fields__)
    evaluation = Evaluation(
        model="some/model.tflite",
        dataset="cifar10",
        split="validation",
        images=5000,
        machine=run.machine,
        input=(32, 32, 3),
        input_dtype="uint8",
        output_dtype="float32",
        layout="nchw",
        channel_order="bgr",
        normalization="(pixel - 0) / 255",
        normalization_source="the file's metadata",
        labels_source="the data set",
        notes=("first", "second"),
        **{name: getattr(result, name) for name in names},
    )
    console = Console(file=io.StringIO(), width=80)
    print_evaluation(evaluation, console)
    text = " ".join(console.file.getvalue().split())
    for fact in (
        "some/model.tflite",
        "93.1 %",
        "92.6-93.6",
        "5,000 validation images",
        "9,213 KB",
        "CONV_2D 21",
        "Xeon",
        "32 x 32 RGB uint8, nchw, bgr",
        "(pixel - 0) / 255 (from: the file's metadata)",
        "first second",
    ):
        assert fact in text


def test_a_target_without_latency_shows_its_arena_instead(on_mcu):
    lines = shown(results_table(on_mcu)).splitlines()
    assert "arena" in lines[0] and "latency" not in lines[0]
    chosen = next(line for line in lines if line.startswith(">"))
    assert chosen.split()[-1] == "37.9"
    text = printed(on_mcu)
    assert "30.9 KB head + 7.00 KB persistent" in " ".join(text.split())
    assert "399 KB flash" in " ".join(text.split())
    assert "x 0.31" in text and "ms p50" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert run_of(json.loads(json.dumps(on_mcu.to_json()))).results == on_mcu.results


def test_failed_recipes_stand_in_the_table_and_say_why(failing):
    text = printed(failing)
    assert all(len(line) <= 80 for line in text.splitlines())
    row = next(line for line in text.splitlines() if line.startswith("!"))
    assert row.split() == ["!", "resnet20", "KD+FIQ", "failed"]
    assert failing.failures[0].error in " ".join(text.split())
    again = run_of(json.loads(json.dumps(failing.to_json())))
    assert again.failures == failing.failures


def test_formats_that_needed_no_training_are_no_short_trainings(searched):
    long = searched.search.trials[3]
    other = replace(long, recipe=f"{long.recipe.rpartition(' > ')[0]} > float16", setup="F16")
    text = wording.search_words(replace(searched.search, trials=(*searched.search.trials, other)))
    assert "trained short: 2, of these also long: 1 (and in other number formats: 1), refused untrained: 1." in text
    nothing = wording.search_words(replace(searched.search, trials=()))
    assert nothing == "Nothing was tried beside the setups: the time is up."


def test_steps_that_pay_at_a_loss_and_seeds(run):
    rung = run.choice.waterfall[1]
    assert wording.paid(replace(rung, paid=True, verdict="worse by 1.00 points")) == "at a loss"
    assert wording.paid(replace(rung, paid=False, verdict="worse by 1.00 points")) == "no"
    assert wording.over_seeds(run) == []
    first = run.results[0]
    twice = replace(run, results=(first, replace(first, seed=1, accuracy=first.accuracy - 0.02)))
    (line,) = wording.over_seeds(twice)
    middle, low, high = (wording.percent(first.accuracy - drop) for drop in (0.01, 0.02, 0))
    assert line == f"{first.recipe}: {middle} % on average of 2 seeds, {low} to {high}"
    assert "Over the seeds" in printed(twice)
