"""The C sources: what they say, what they are made for, and whether the memory they set aside is enough."""

import re

import numpy as np
import pytest
import torch

from dlmo import networks
from dlmo.package.c_example import c_files, c_float, estimated_arena, obstacle
from dlmo.package.parts import tensor_documents
from dlmo.runtimes.litert import flatbuffer, quantize, sparse
from dlmo.runtimes.litert.convert import convert
from dlmo.techniques.fake_quantization import fold_batch_norm

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def float_file():
    torch.manual_seed(0)
    network = networks.build("resnet8@0.5", classes=5, input_shape=SHAPE).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter[parameter.abs() < parameter.abs().median()] = 0
    return convert(fold_batch_norm(network), SHAPE)


@pytest.fixture(scope="module")
def int8_file(float_file, images):
    return flatbuffer.shorten_names(quantize.static_int8(float_file, images))


def written(content, labels=("a", "b", "c", "d", "e"), arena_bytes=None):
    from dlmo.runtimes.litert.interpreter import Runner

    runner = Runner(content)
    inputs = runner.prepare(np.zeros((3, *runner.input_shape), np.uint8))
    outputs = np.zeros((3, runner.classes), runner.output["dtype"])
    files = c_files(content, list(labels), inputs, outputs, arena_bytes)
    return {name: data.decode() for name, data in files.items()}


def test_the_resolver_lists_exactly_the_operators(int8_file):
    main = written(int8_file)["main.cc"]
    added = re.findall(r"resolver\.Add(\w+)\(\)", main)
    assert f"MicroMutableOpResolver<{len(added)}>" in main
    spelled = {name.replace("_", "").lower() for name in flatbuffer.facts(int8_file).operators}
    assert {name.lower() for name in added} == spelled
    assert "AddConv2D" in main and "AddFullyConnected" in main
    assert "estimated by dlmo" in main


def test_a_measured_arena_is_taken_and_said(int8_file):
    main = written(int8_file, arena_bytes=12_345)["main.cc"]
    assert "kArenaBytes = 12'345" in main and "measured by dlmo" in main


def test_the_array_is_the_file(int8_file):
    source = written(int8_file)["model_data.cc"]
    body = source[source.index("{") + 1 : source.index("}")]
    assert bytes(map(int, body.replace(",", " ").split())) == int8_file
    assert f"kModelDataSize = {len(int8_file)};" in source


def test_floats_keep_their_bits(float_file):
    files = written(flatbuffer.shorten_names(float_file))
    assert "using Input = float;" in files["golden_data.h"]
    assert "-1.0f" in files["golden_data.cc"]


def test_class_names_cannot_break_the_source(int8_file):
    labels = written(int8_file, ('a"; int x = 1; //', "b\\", "Stra\u00dfe", "??/", "5"))["labels.h"]
    assert '"a\\042; int x = 1; //"' in labels
    assert '"b\\134"' in labels and '"Stra\\303\\237e"' in labels and '"\\077\\077/"' in labels


def test_obstacles_name_the_reason(float_file, int8_file):
    assert obstacle(int8_file) is None
    assert obstacle(float_file) is None
    assert "int8 weights with float activations" in obstacle(quantize.dynamic_int8(float_file))
    assert "widened" in obstacle(quantize.weight_only_int8(float_file))
    assert obstacle(float_file + bytes(17 << 20)) == "its 18 MB are more than a microcontroller holds"
    assert "neither float32 nor int8" in obstacle(quantize.float16(float_file))
    assert "sparse" in obstacle(sparse.encode_zeros(flatbuffer.shorten_names(float_file)))


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_the_estimated_arena_is_enough_and_not_three_times_too_much(kind, float_file, int8_file):
    runtime = pytest.importorskip("tflite_micro").runtime
    content = int8_file if kind == "int8" else flatbuffer.shorten_names(float_file)
    arena = estimated_arena(content)
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    interpreter.set_input(np.zeros((1, *SHAPE), np.int8 if kind == "int8" else np.float32), 0)
    interpreter.invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(content, arena_size=arena // 3)


def test_a_softmax_at_the_end_is_noted(float_file):
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Softmax(1)
    )
    assert tensor_documents(convert(network, SHAPE))["output_tensor"]["holds"] == "shares"
    assert tensor_documents(float_file)["output_tensor"]["holds"] == "logits"
    gated = torch.nn.Sequential(*network, torch.nn.Linear(4, 4))
    assert tensor_documents(convert(gated, SHAPE))["output_tensor"]["holds"] == "logits", (
        "it lies before the last layer"
    )


@pytest.mark.parametrize("value, literal", [(3, "3.0f"), (0.1234567, "0.123457f"), (1e-9, "1e-09f"), (2e20, "2e+20f")])
def test_float_literals_are_those_of_c(value, literal):
    assert c_float(value) == literal
