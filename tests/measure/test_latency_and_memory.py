import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dlmo.data import load
from dlmo.errors import UserError
from dlmo.measure.evaluate import evaluate, read_model
from dlmo.measure.latency import measure_latency
from dlmo.measure.machine import machine
from dlmo.measure.memory import measure_memory
from dlmo.measure.size import compressed_bytes
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.interpreter import Runner


def file_of(channels):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
    return convert(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)), (16, 16, 1))


@pytest.fixture(scope="module")
def small():
    return file_of(8)


@pytest.fixture(scope="module")
def large():
    return file_of(256)


def test_latency_orders_files_by_their_work(small, large):
    first, second = measure_latency([small, large], threads=1, open_file=Runner)
    assert first.p50_ms < second.p50_ms
    for latency in (first, second):
        assert 0 < latency.p50_ms <= latency.p90_ms
        assert latency.runs >= 12 * 4


def test_memory_grows_with_the_weights(small, large):
    before, after = measure_memory(small), measure_memory(large)
    assert before is not None and after is not None
    assert after > before + 256 * 256 * 9 * 4


def test_a_broken_file_has_no_memory():
    assert measure_memory(b"nothing") is None


def test_compressed_size():
    assert compressed_bytes(b"\0" * 10_000) < 100
    noise = np.random.default_rng(0).bytes(1000)
    assert compressed_bytes(noise) >= 1000


def test_the_machine_is_told():
    assert machine()["cores"] >= 1 and machine()["cpu"]


def test_evaluate_reads_labels_in_another_order(small, tmp_path):
    (tmp_path / "model.tflite").write_bytes(small)
    plain = evaluate(tmp_path / "model.tflite", "digits")
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    assert evaluate(tmp_path / "model.tflite", "digits").accuracy == plain.accuracy
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in reversed(range(10))))
    assert evaluate(tmp_path / "model.tflite", "digits").accuracy != plain.accuracy
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="scores 10 classes"):
        evaluate(tmp_path / "model.tflite", "digits")
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in "abcdefghij"))
    with pytest.raises(UserError, match="does not list"):
        evaluate(tmp_path / "model.tflite", "digits")


def test_evaluate_refuses_what_is_no_model(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"GIF89a..............")
    with pytest.raises(UserError, match="no .tflite file"):
        read_model(tmp_path / "x.tflite")


def test_answers_outside_the_data_sets_classes_are_wrong(small, tmp_path):
    """A model of ten digits on images of two of them: all ten outputs compete."""
    from PIL import Image

    from dlmo.data import load
    from dlmo.runtimes.litert.interpreter import predict

    digits = load("digits", input_size=16)
    answers = predict(small, digits.test.images).argmax(1)
    source = tmp_path / "two"
    for index, image in enumerate(digits.test.images[:, ..., 0]):
        label = digits.test.labels[index]
        if label in (3, 5):
            for split in ("train", "test"):
                folder = source / split / str(label)
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(folder / f"{index}.png")
    (tmp_path / "model.tflite").write_bytes(small)
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    two = np.isin(digits.test.labels, (3, 5))
    wanted = (answers[two] == digits.test.labels[two]).mean()
    assert evaluate(tmp_path / "model.tflite", str(source)).accuracy == pytest.approx(wanted)


def test_a_sidecar_that_is_not_dlmos_is_ignored(small, tmp_path):
    (tmp_path / "model.tflite").write_bytes(small)
    for text in ("[]", "no json", '{"split": null}', '{"split": {"group_by": "(x)"}}'):
        (tmp_path / "preprocessing.json").write_text(text)
        assert evaluate(tmp_path / "model.tflite", "digits").images == 359


def test_noted_groups_that_hold_for_some_files_alone_are_not_dropped(small, tmp_path):
    (tmp_path / "model.tflite").write_bytes(small)
    (tmp_path / "preprocessing.json").write_text(json.dumps({"split": {"group_by": r"slot(\d+)"}}))
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    digits, source = load("digits", input_size=16), tmp_path / "photos"
    for index, image in enumerate(digits.test.images[:100, ..., 0]):
        folder = source / str(digits.test.labels[index])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"slot{index // 2}_{index}.png")
    assert not any("groups noted" in note for note in evaluate(tmp_path / "model.tflite", str(source)).notes)
    Image.fromarray(image).save(folder / "new.png")
    with pytest.raises(UserError, match="as noted beside .* --group-by '' splits without groups"):
        evaluate(tmp_path / "model.tflite", str(source))
    for file in source.rglob("slot*.png"):
        file.rename(file.with_name(file.name.removeprefix("slot")))
    assert any("groups noted" in note for note in evaluate(tmp_path / "model.tflite", str(source)).notes)
