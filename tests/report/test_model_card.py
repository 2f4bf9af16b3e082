from dataclasses import replace

from dlmo.report.model_card import model_card


def test_card_holds_what_a_reader_needs(run):
    card = model_card(run)
    for fact in (
        "`resnet20 > qat > int8`",
        "32 x 32 RGB",
        "91.7 % (95 % interval 91.2-92.3 %, n = 10,000 test images)",
        "309 KB",
        "0.370 ms p50",
        "Xeon",
        run.dataset["command"],
        "preprocessing.json",
        "8-bit integers",
    ):
        assert fact in card


def test_worst_class_comes_first(run):
    card = model_card(run)
    table = card[card.index("Recall per class") :]
    assert table.index("| cat |") < table.index("| horse |")


def test_class_names_cannot_break_the_table(with_classes):
    run = with_classes(2)
    card = model_card(replace(run, classes=("a|b", "<script>alert(1)</script>")))
    assert "| a\\|b |" in card
    assert "<script>" not in card


def test_missing_facts_are_left_out(run):
    card = model_card(replace(run, dataset={}, machine={}, confusion=(), notes=()))
    assert "How to reproduce" not in card
    assert "Recall" not in card
    assert "None" not in card


def test_no_choice(no_choice):
    card = model_card(no_choice)
    assert "Nothing tried met the limits" in card
    assert "`mobilenet_v2 > float16`" in card
    assert "684 KB over the limit" in card


def test_a_study_without_limits(no_choice):
    card = model_card(replace(no_choice, nearest=(), budget={}))
    assert "No limits were given" in card
    assert "Nothing tried" not in card


def test_nothing_tried(no_choice):
    card = model_card(replace(no_choice, results=(), confusion=()))
    assert "## Files" not in card


def test_a_microcontroller_gets_arena_and_flash_instead_of_latency(on_mcu):
    card = model_card(on_mcu)
    assert "30.9 KB head + 7.00 KB persistent" in card and "| flash | 399 KB, estimated |" in card
    assert "| latency |" not in card
