import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from dlmo import networks
from dlmo.errors import UserError
from dlmo.measure.feeding import FeedOptions
from dlmo.measure.layers import inspect, matched
from dlmo.report.layers import print_inspection
from dlmo.runtimes.litert import flatbuffer, quantize, sparse
from dlmo.runtimes.litert.convert import convert
from dlmo.techniques.fake_quantization import exportable, fold_batch_norm, insert_fake_quantization

TENSORFLOW = Path(__file__).parent / "tensorflow"
SHAPE = (16, 16, 1)


@pytest.fixture(scope="module")
def files(tmp_path_factory, digits):
    """Files of one network that saw the digits, as dlmo writes them: names shortened, zeros encoded."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    network = networks.build("resnet8@0.25", classes=10, input_shape=SHAPE).train()
    batch = (torch.from_numpy(digits.train.images[:64]).permute(0, 3, 1, 2).float() - 128) / 128
    with torch.no_grad():
        for _ in range(20):
            network(batch)
    network.eval()
    plain = convert(fold_batch_norm(network), SHAPE)
    graph = insert_fake_quantization(network).train()
    for _ in range(10):
        graph(batch)
    made = {
        "float32": plain,
        "float16": quantize.float16(plain),
        "dynamic_int8": quantize.dynamic_int8(plain),
        "int8": quantize.static_int8(plain, digits.train.images[:100]),
        "qat": convert(exportable(graph.eval()), SHAPE, quantized=True),
    }
    for name, content in made.items():
        (folder / f"{name}.tflite").write_bytes(flatbuffer.shorten_names(content))
    zeroed = flatbuffer.read(flatbuffer.shorten_names(plain))
    for buffer in zeroed.buffers:
        if buffer.data is not None and len(buffer.data) > 400:
            weights = np.frombuffer(bytes(buffer.data), np.float32).copy()
            weights[np.abs(weights) < np.quantile(np.abs(weights), 0.9)] = 0
            buffer.data = weights.view(np.uint8)
    (folder / "zeros.tflite").write_bytes(sparse.encode_zeros(flatbuffer.write(zeroed)))
    return folder


def test_operators_of_a_file(files):
    inspection = inspect(files / "int8.tflite")
    content = (files / "int8.tflite").read_bytes()
    facts = flatbuffer.facts(content)
    assert len(inspection.operators) == sum(facts.operators.values())
    assert sum(operator.macs for operator in inspection.operators) == facts.macs
    assert all(operator.delegated for operator in inspection.operators) and inspection.partitions == 1
    first = next(operator for operator in inspection.operators if operator.name == "CONV_2D")
    assert (first.name, first.input_type, first.weight_type, first.output_type) == ("CONV_2D", *["int8"] * 3)
    assert first.output[0] == 1 and len(first.output) == 4
    constants = sum(operator.weight_bytes for operator in inspection.operators)
    assert facts.parameters < constants < len(content)
    assert inspection.worst(3) == [] and inspection.unmatched() == []


@pytest.mark.parametrize(
    "name, least, most", [("float16", 40, 100), ("dynamic_int8", 15, 70), ("int8", 15, 60), ("qat", 10, 60)]
)
def test_every_computing_operator_finds_its_twin(files, name, least, most):
    inspection = inspect(files / f"{name}.tflite", against=files / "float32.tflite", source="digits")
    assert inspection.unmatched() == []
    compared = [operator for operator in inspection.operators if operator.twin is not None]
    assert {"CONV_2D", "FULLY_CONNECTED", "ADD"} <= {operator.name for operator in compared}
    assert all(least < operator.decibels < most for operator in compared if operator.decibels is not None)
    assert inspection.comparison.images == 48 and inspection.comparison.agreeing > 24
    json.dumps(inspection.to_json(), allow_nan=False)


def test_a_file_against_itself_has_no_error(files):
    inspection = inspect(files / "float32.tflite", against=files / "float32.tflite", source="digits")
    assert inspection.comparison.agreeing == 48 and inspection.worst(5) == []
    assert {operator.error for operator in inspection.operators if operator.twin is not None} == {0.0}
    assert [operator.twin for operator in inspection.operators if operator.twin is not None] == [
        operator.index for operator in inspection.operators if operator.twin is not None
    ]


def test_the_worst_operator_is_the_one_that_was_damaged(files, tmp_path):
    model = flatbuffer.read((files / "float32.tflite").read_bytes())
    graph = model.subgraphs[0]
    convolutions = [
        index
        for index, operator in enumerate(graph.operators)
        if flatbuffer.operator_name(model, operator) == "CONV_2D"
    ]
    weights = model.buffers[graph.tensors[int(graph.operators[convolutions[3]].inputs[1])].buffer]
    values = np.frombuffer(bytes(weights.data), np.float32)
    weights.data = (np.round(values / 0.2) * np.float32(0.2)).astype(np.float32).view(np.uint8)
    (tmp_path / "coarse.tflite").write_bytes(flatbuffer.write(model))
    inspection = inspect(tmp_path / "coarse.tflite", against=files / "float32.tflite", source="digits")
    assert inspection.worst(1)[0].index == convolutions[3]
    assert all(operator.error == 0 for operator in inspection.operators[: convolutions[3]] if operator.twin is not None)


def test_encoded_zeros_are_looked_through(files):
    inspection = inspect(files / "zeros.tflite", against=files / "float32.tflite", source="digits")
    assert "DENSIFY" in {operator.name for operator in inspection.operators}
    assert inspection.unmatched() == []


def test_what_has_no_twin_is_told(files):
    feed = FeedOptions(scale=255)
    inspection = inspect(
        TENSORFLOW / "uint8_softmax.tflite", against=TENSORFLOW / "float.tflite", source="digits", feed=feed
    )
    assert [operator.name for operator in inspection.unmatched()] == ["SOFTMAX"]
    console = Console(file=io.StringIO(), width=80)
    print_inspection(inspection, console)
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "not compared, no such operator there: 9 SOFTMAX" in " ".join(text.split())
    assert "DEPTHWISE_CONV_2D" in text and "uint8 > int8" in text and "48 of 48" in " ".join(text.split())


def test_files_of_different_networks_are_refused(files):
    with pytest.raises(UserError, match="of one network"):
        inspect(files / "int8.tflite", against=TENSORFLOW / "own_order.tflite", source="digits")
    with pytest.raises(UserError, match="quantized or sparse; give the float file"):
        inspect(files / "float32.tflite", against=files / "int8.tflite", source="digits")
    with pytest.raises(UserError, match="needs a data set"):
        inspect(files / "int8.tflite", against=files / "float32.tflite")


def test_matching_keeps_the_order_and_finds_most_pairs():
    x, y, z = ("CONV_2D", (1, 4, 4, 8), True), ("ADD", (1, 4, 4, 8), True), ("MUL", (1, 8), False)
    assert matched([x, y, x, y, x, y], [x, y, z, x, y, x, y]) == {0: 0, 1: 1, 2: 3, 3: 4, 4: 5, 5: 6}
    assert matched([None, x, None, z], [x, y, None]) == {1: 0}
    assert matched([], [x]) == {}
