"""The table of layer times: its files run as networks' layers do, and it reads between what was measured."""

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from dlmo.measure.latency import measure_latency
from dlmo.measure.layer_latency import Grid, LatencyTable, measure_table, with_rest
from dlmo.networks import build
from dlmo.networks.shapes import LayerShape
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.runtimes.litert.single import FORMATS, layer_file
from dlmo.techniques.channel_pruning import Target, cut, file_layers
from dlmo.techniques.fake_quantization import fold_batch_norm

CONV = LayerShape("conv", (3, 3), (1, 1), (8, 8), (8, 8), 8, 16)
LAYERS = (
    CONV,
    LayerShape("conv", (3, 3), (2, 2), (8, 8), (4, 4), 3, 8),
    LayerShape("conv", (5, 3), (1, 1), (8, 8), (4, 6), 8, 8),
    LayerShape("conv", (3, 3), (1, 1), (8, 8), (8, 8), 8, 16, groups=4),
    LayerShape("depthwise", (3, 3), (2, 2), (9, 9), (5, 5), 24, 24),
    LayerShape("linear", (1, 1), (1, 1), (1, 1), (1, 1), 32, 10),
)


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("shape", LAYERS, ids=lambda shape: f"{shape.kind}-{shape.kernel}-{shape.stride}")
def test_single_layers_run_as_networks_layers_do(shape, number_format):
    interpreter = Interpreter(model_content=layer_file(shape, number_format, copies=3), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.invoke()
    sides = (1, shape.outputs) if shape.kind == "linear" else (1, *shape.output, shape.outputs)
    outputs = interpreter.get_output_details()
    assert [tuple(output["shape"]) for output in outputs] == [sides] * 3
    assert sum(node["op_name"] == "DELEGATE" for node in interpreter._get_ops_details()) == 1


def test_times_between_points():
    grid = Grid(CONV.of(0, 0), (8, 16), (8, 24), ((1.0, 3.0), (2.0, 4.0)))
    table = LatencyTable("float32", (grid,), beside=2.0)
    assert table(CONV.of(8, 8)) == 2.0
    assert table(CONV.of(12, 16)) == 2.0 * 2.5
    assert table(CONV.of(4, 32)) == 2.0 * 3.0, "the nearest point where nothing was measured"
    assert LatencyTable.from_json(table.to_json()) == table


def test_what_is_measured():
    wide, depthwise = CONV.of(24, 40), LAYERS[4]
    table = measure_table([CONV, wide, depthwise], "int8")
    first, second = table.grids
    assert (first.inputs, first.outputs) == ((4, 8, 16, 24), (4, 8, 16, 24, 32, 40))
    assert (second.outputs, len(second.microseconds)) == ((4, 8, 16, 24), 1)
    assert table(CONV.of(4, 4)) > 0
    times = np.array(first.microseconds)
    assert (np.diff(times, axis=0) >= 0).all() and (np.diff(times, axis=1) >= 0).all()
    whole = with_rest(table, [CONV, wide], milliseconds=1.0)
    assert whole(CONV) + whole(wide) == pytest.approx(1000)


@pytest.fixture(scope="module")
def images():
    from dlmo.data.dataset import Split

    return Split(np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int64), ("", ""))


def test_a_cut_networks_latency_is_foretold(images):
    """Within a factor of 2: other work on the machine must not fail the test."""
    torch.manual_seed(0)
    original = build("resnet8", classes=4, input_shape=(32, 32, 3)).eval()
    smaller = cut(original, original, Target(0.5, None, "magnitude", "global", 8), images)
    files = [convert(fold_batch_norm(module), (32, 32, 3)) for module in (original, smaller)]
    before, after = ([shape for _, shape in file_layers(module, (32, 32, 3))] for module in (original, smaller))
    table = measure_table(before, "float32")
    measured = [latency.p50_ms for latency in measure_latency(files, threads=1, open_file=Runner)]
    table = with_rest(table, before, measured[0])
    assert 0.5 < sum(map(table, after)) / 1000 / measured[1] < 2
