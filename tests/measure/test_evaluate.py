"""Files of TensorFlow's converter (see make_tensorflow_fixtures.py), and files that are no image classifier."""

import json
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from dlmo.errors import UserError
from dlmo.measure.evaluate import evaluate
from dlmo.measure.feeding import FeedOptions, output_of_class
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner, predict

TENSORFLOW = Path(__file__).parent / "tensorflow"
EXPECTED = json.loads((TENSORFLOW / "expected.json").read_text())["files"]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_accuracy_is_that_of_tensorflows_interpreter(name):
    expected = EXPECTED[name]
    labels = TENSORFLOW / "own_order.txt" if name == "own_order" else None
    evaluation = evaluate(
        TENSORFLOW / f"{name}.tflite", "digits", feed=FeedOptions(**expected["options"], labels=labels)
    )
    assert evaluation.images == expected["images"]
    assert evaluation.accuracy == expected["right"] / expected["images"]
    assert evaluation.layout == ("nchw" if name == "channels_first" else "nhwc")
    assert evaluation.ram_bytes > 0 and evaluation.latency_ms > 0
    assert evaluation.macs > 25_000 and evaluation.parameters > 3_500
    assert any("4 images at once" in note for note in evaluation.notes) == (name == "four_at_once")


@pytest.mark.parametrize("name", ["float", "uint8_io", "channels_first"])
def test_every_answer_is_that_of_tensorflows_interpreter(name, digits):
    content = (TENSORFLOW / f"{name}.tflite").read_bytes()
    normalization = FeedOptions(scale=255).normalization()
    found = predict(content, digits.test.images, normalization=normalization).argmax(1)
    assert "".join(map(str, found)) == EXPECTED[name]["answers"]


def test_images_go_to_the_child_in_pieces(monkeypatch):
    """A data set may be larger than what a child may hold."""
    monkeypatch.setattr("dlmo.measure.evaluate._PIECE_BYTES", 10_000)
    evaluation = evaluate(TENSORFLOW / "float.tflite", "digits", feed=FeedOptions(scale=255))
    assert evaluation.accuracy == EXPECTED["float"]["right"] / EXPECTED["float"]["images"]


def test_metadata_is_used_and_told():
    evaluation = evaluate(TENSORFLOW / "metadata.tflite", "digits")
    assert evaluation.normalization == "(pixel - 0) / 255"
    assert evaluation.normalization_source == evaluation.labels_source == "the file's metadata"


def test_low_accuracy_names_the_usual_causes_and_what_does_better():
    poor = evaluate(TENSORFLOW / "float.tflite", "digits", feed=FeedOptions(mean=300))
    assert "--mean unit gets" in poor.notes[-1] and "order of classes" in poor.notes[-1]


def test_no_hint_where_the_labels_are_wrong(tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in "1234567890"))
    poor = evaluate(TENSORFLOW / "float.tflite", "digits", feed=FeedOptions(scale=255, labels=tmp_path / "labels.txt"))
    assert "labels' order" in poor.notes[-1]


def test_which_images_were_judged_is_told(digits):
    """A folder without splits gives up a fifth of its images; `all` takes every one."""
    wholes = {}
    for split in ("test", "all"):
        wholes[split] = evaluate(TENSORFLOW / "float.tflite", "digits", split=split, feed=FeedOptions(scale=255))
    assert wholes["test"].notes[0].startswith(f"test: {len(digits.test)} of ")
    assert not any(note.startswith("validation") for note in wholes["test"].notes)
    assert wholes["all"].images == len(digits.train) + len(digits.validation) + len(digits.test)
    assert wholes["all"].notes == ()
    assert 0 < wholes["all"].accuracy != wholes["test"].accuracy


def test_of_a_model_made_here_all_images_are_not_only_new_ones(digits, tmp_path):
    model = tmp_path / "model.tflite"
    model.write_bytes((TENSORFLOW / "float.tflite").read_bytes())
    (tmp_path / "preprocessing.json").write_text('{"split": {"group_by": null}}')
    notes = evaluate(model, "digits", split="all", feed=FeedOptions(scale=255)).notes
    assert f"chosen on {len(digits.train) + len(digits.validation):,} of them" in notes[-1]


def edited(name, change):
    model = flatbuffer.read((TENSORFLOW / f"{name}.tflite").read_bytes())
    change(model)
    return flatbuffer.write(model)


@pytest.mark.parametrize("batch", [1, 4])
def test_work_counts_tokens_and_products_of_activations(batch):
    def tensor(*shape):
        return schema.TensorT(shape=list(shape))

    tokens, inner, outer = 7, 5, 3
    _, macs = flatbuffer.work(
        "FULLY_CONNECTED", [tensor(batch * tokens, inner), tensor(outer, inner)], tensor(batch * tokens, outer), batch
    )
    assert macs == tokens * inner * outer
    factors = [tensor(batch, tokens, inner), tensor(batch, inner, tokens)]
    assert flatbuffer.work("BATCH_MATMUL", factors, tensor(batch, tokens, tokens), batch) == (
        0,
        tokens * tokens * inner,
    )


def test_a_name_that_stands_for_two_outputs_is_refused(tmp_path):
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in "0123456799"))
    classes = tuple("012345679")
    with pytest.raises(UserError, match="lists 9 more than once"):
        output_of_class(tmp_path / "x.tflite", 10, tuple("0123456799"), "labels.txt", "digits", classes)
    assert list(
        output_of_class(tmp_path / "x.tflite", 10, tuple("0123456799"), "labels.txt", "digits", ("1", "0"))
    ) == [1, 0]


def several_inputs(model):
    graph = model.subgraphs[0]
    graph.inputs = [*graph.inputs, graph.inputs[0]]


def no_subgraph(model):
    model.subgraphs = []


def unknown_operator(model):
    model.operatorCodes[0].deprecatedBuiltinCode = 127
    model.operatorCodes[0].builtinCode = 9999


def huge_input(model):
    model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])].shape = [1, 2**30, 2**30, 1]


def empty_input(model):
    model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])].shape = [1, 0, 16, 1]


def features_as_output(model):
    model.subgraphs[0].outputs = [model.subgraphs[0].operators[0].outputs[0]]


@pytest.mark.parametrize(
    "change, words",
    [
        (several_inputs, "not one image"),
        (no_subgraph, "cannot load|damaged|crashed"),
        (unknown_operator, "cannot load"),
        (huge_input, "x.tflite: "),
        (empty_input, "not one grey|size open|cannot load"),
        (features_as_output, "not one score per class"),
    ],
)
def test_what_is_no_classifier_is_refused_in_one_line(change, words, tmp_path):
    (tmp_path / "x.tflite").write_bytes(edited("channels_first" if change is empty_input else "float", change))
    with pytest.raises(UserError, match=words) as caught:
        evaluate(tmp_path / "x.tflite", "digits")
    assert "\n" not in str(caught.value)


def open_size(model):
    """Leave height and width open."""
    image = model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])]
    image.shape, image.shapeSignature = [1, 1, 1, 1], [-1, -1, -1, 1]


def test_an_open_size_must_be_given(tmp_path):
    path = tmp_path / "x.tflite"
    path.write_bytes(edited("float", open_size))
    with pytest.raises(UserError, match="--input-size"):
        evaluate(path, "digits")
    found = evaluate(path, "digits", feed=FeedOptions(scale=255, input_size=16))
    assert found.accuracy == EXPECTED["float"]["right"] / EXPECTED["float"]["images"]
    with pytest.raises(UserError, match="no other size"):
        evaluate(TENSORFLOW / "float.tflite", "digits", feed=FeedOptions(input_size=32))


def test_a_fixed_batch_is_filled_up(digits):
    content = (TENSORFLOW / "four_at_once.tflite").read_bytes()
    one = Runner((TENSORFLOW / "float.tflite").read_bytes())
    four = Runner(content)
    assert (four.batch, four.classes, one.batch) == (4, 10, 1)
    images = digits.test.images[:7]
    counted = []
    found = four.run(four.prepare(images), counted.append)
    assert np.allclose(found, one.run(one.prepare(images)), atol=1e-4)
    assert counted == [4, 3]


def test_no_numbers_are_wrong_answers(tmp_path):
    def break_bias(model):
        """Not-a-number in the last layer's biases."""
        graph = model.subgraphs[0]
        bias = graph.tensors[int(graph.operators[-1].inputs[2])]
        model.buffers[bias.buffer].data = np.full(10, np.nan, np.float32).view(np.uint8)

    (tmp_path / "x.tflite").write_bytes(edited("float", break_bias))
    evaluation = evaluate(tmp_path / "x.tflite", "digits", feed=FeedOptions(scale=255))
    assert evaluation.accuracy == 0
    assert any("get scores that are no numbers" in note for note in evaluation.notes)
    json.dumps(evaluation.to_json(), allow_nan=False)
