import json
from dataclasses import replace
from pathlib import Path

import pytest

from dlmo.data.preprocessing import OWN, Normalization
from dlmo.errors import UserError
from dlmo.measure.feeding import FeedOptions, choose_feed, choose_labels, common_feeds, output_of_class
from dlmo.measure.probe import Probe

MODEL = Path("folder/model.tflite")


@pytest.fixture
def probe():
    return Probe(
        size=(16, 16), channels=3, layout="nhwc", batch=1, classes=10, input_dtype="float32", output_dtype="float32",
        quantization=(0.0, 0), ram_bytes=None, macs=0, parameters=0, operators={}, float_operators=(), delegated=1.0,
        partitions=1, mean=None, std=None, labels=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options, wanted",
    [
        (dict(scale=255.0), Normalization((0.0,), (255.0,))),
        (dict(mean="127.5", std="127.5"), Normalization((127.5,), (127.5,))),
        (dict(mean=[10, 20, 30]), Normalization((10.0, 20.0, 30.0), (1.0, 1.0, 1.0))),
        (dict(mean="0.5", std="0.5"), Normalization((127.5,), (127.5,))),
        (dict(mean="pixels"), Normalization((0.0,), (1.0,))),
        (dict(scale=255, mean="0.5", std="0.1,0.2,0.4"), Normalization((127.5,) * 3, (25.5, 51.0, 102.0))),
        (dict(), None),
    ],
)
def test_options_become_one_normalization(options, wanted):
    assert FeedOptions(**options).normalization() == wanted


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(mean="1,2"), "--mean"),
        (dict(std="wide"), "--std"),
        (dict(std="0"), "above 0"),
        (dict(scale=-1.0), "above 0"),
        (dict(mean="imagenet", scale=255.0), "says all"),
        (dict(mean="nan"), "--mean"),
        (dict(layout="chwn"), "--layout"),
        (dict(channel_order="gbr"), "--channel-order"),
        (dict(input_size=0), "--input-size 0"),
    ],
)
def test_bad_options_are_refused_at_once(options, words):
    with pytest.raises(UserError, match=words):
        FeedOptions(**options)


def test_the_first_place_that_knows_wins(probe, tmp_path):
    model = tmp_path / "model.tflite"
    embedded = replace(probe, mean=[2.0], std=[3.0])
    assert choose_feed(FeedOptions(), model, probe).normalization == OWN
    assert choose_feed(FeedOptions(), model, embedded).normalization == Normalization((2.0,), (3.0,))
    (tmp_path / "preprocessing.json").write_text(json.dumps({"normalize": {"offset": [1, 2, 3], "scale": 4}}))
    beside = choose_feed(FeedOptions(), model, embedded)
    assert beside.normalization == Normalization((1.0, 2.0, 3.0), (4.0, 4.0, 4.0))
    assert beside.normalization_source == "preprocessing.json"
    assert choose_feed(FeedOptions(scale=9), model, embedded).normalization == Normalization((0.0,), (9.0,))
    for noted in ('{"offset": "x", "scale": []}', '{"offset": {"r": 1}, "scale": 1}', '{"offset": [null], "scale": 1}'):
        (tmp_path / "preprocessing.json").write_text(f'{{"normalize": {noted}}}')
        with pytest.raises(UserError, match="preprocessing.json"):
            choose_feed(FeedOptions(), model, probe)


def test_names_of_normalizations_follow_the_order_of_the_channels(probe):
    names = FeedOptions(mean="imagenet"), FeedOptions(mean="imagenet", channel_order="bgr")
    straight, turned = (choose_feed(options, MODEL, probe).normalization for options in names)
    assert (turned.mean, turned.std) == (straight.mean[::-1], straight.std[::-1]) != (straight.mean, straight.std)
    numbers = FeedOptions(mean="1,2,3", std="4,5,6", scale=1, channel_order="bgr")
    assert choose_feed(numbers, MODEL, probe).normalization.mean == (1, 2, 3), "numbers are in the model's order"
    feeds = common_feeds(names[0], choose_feed(names[0], MODEL, probe), 3)
    assert feeds["--channel-order bgr"].normalization == turned


def test_channels_must_fit(probe):
    grey = replace(probe, channels=1)
    with pytest.raises(UserError, match="1 channels"):
        choose_feed(FeedOptions(mean="1,2,3"), MODEL, grey)
    with pytest.raises(UserError, match="grey"):
        choose_feed(FeedOptions(channel_order="bgr"), MODEL, grey)
    none = FeedOptions()
    assert set(common_feeds(none, choose_feed(none, MODEL, grey), 1)) < set(
        common_feeds(none, choose_feed(none, MODEL, probe), 3)
    )


def test_labels_from_option_folder_metadata_and_data_set(tmp_path):
    model, classes = tmp_path / "model.tflite", ("a", "b")
    assert choose_labels(FeedOptions(), model, None, classes) == (classes, "the data set")
    assert choose_labels(FeedOptions(), model, ["b", "a"], classes)[0] == ("b", "a")
    (tmp_path / "labels.txt").write_text("x\ny\n")
    assert choose_labels(FeedOptions(), model, ["b", "a"], classes)[0] == ("x", "y")
    (tmp_path / "own.txt").write_bytes("\ufeffbackground\r\na \r\nb\r\n\r\n".encode())
    labels, source = choose_labels(FeedOptions(labels=tmp_path / "own.txt"), model, ["b", "a"], classes)
    assert labels == ("background", "a", "b") and "own.txt" in source
    assert output_of_class(model, 3, labels, source, "photos", classes).tolist() == [1, 2]
    with pytest.raises(UserError, match="cannot read the labels"):
        choose_labels(FeedOptions(labels=tmp_path / "none.txt"), model, None, classes)


def test_a_class_folder_may_end_in_a_space():
    order = output_of_class(Path("m.tflite"), 2, ("dog", "cat"), "labels.txt", "photos", ("cat ", "dog"))
    assert order.tolist() == [1, 0]


def test_outputs_and_labels_must_fit():
    with pytest.raises(UserError, match="background class"):
        output_of_class(MODEL, 3, ("a", "b"), "the data set", "photos", ("a", "b"))
    with pytest.raises(UserError, match="does not list: c"):
        output_of_class(MODEL, 2, ("a", "b"), "labels.txt", "photos", ("a", "c"))
