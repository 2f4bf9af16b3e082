"""Conversion, quantization, zero encoding and the runtime, on a small trained network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert.tools import flatbuffer_utils
from torch import nn

from dlmo import networks
from dlmo.data.preprocessing import to_float
from dlmo.errors import UserError
from dlmo.networks.modular import modular
from dlmo.runtimes.litert import flatbuffer, quantize, sparse
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.interpreter import Runner, predict
from dlmo.techniques.fake_quantization import exportable, fold_batch_norm, insert_fake_quantization
from dlmo.techniques.pruning import lamp_masks, prunable_layers

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def network(images):
    torch.manual_seed(0)
    model = networks.build("resnet8", classes=5, input_shape=SHAPE).train()
    batch = torch.from_numpy(to_float(images)).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(20):
            model(batch)
    return model.eval()


@pytest.fixture(scope="module")
def float_file(network):
    return convert(fold_batch_norm(network), SHAPE)


def torch_scores(network, images):
    with torch.no_grad():
        return network(torch.from_numpy(to_float(images)).permute(0, 3, 1, 2)).numpy()


def test_the_file_computes_what_the_network_does(network, float_file, images):
    assert np.allclose(predict(float_file, images), torch_scores(network, images), atol=1e-4)


def test_short_names_shrink_the_file_and_change_no_bit(float_file, images):
    short = flatbuffer.shorten_names(float_file)
    assert len(float_file) - len(short) > 4_000
    assert np.array_equal(predict(float_file, images), predict(short, images))


def test_equal_vectors_are_stored_once(float_file, images):
    made = quantize.static_int8(float_file, images)
    shared = flatbuffer.write(flatbuffer.read(made))
    plain = bytes(flatbuffer_utils.convert_object_to_bytearray(flatbuffer.read(made)))
    zero_points = [
        tensor.quantization.zeroPoint
        for tensor in flatbuffer.read(shared).subgraphs[0].tensors
        if tensor.quantization is not None and tensor.quantization.zeroPoint is not None
    ]
    repeated = sum(map(len, zero_points)) - sum({len(values) for values in zero_points if not values.any()})
    assert len(plain) - len(shared) > 7 * repeated  # a few of them are not zero
    unpacked = flatbuffer_utils.convert_object_to_bytearray(flatbuffer.read(shared))
    assert bytes(unpacked) == plain  # every reader sees the same model
    assert np.array_equal(predict(made, images), predict(shared, images))


def test_facts_of_a_file(network, float_file):
    facts = flatbuffer.facts(float_file)
    weights = sum(p.numel() for n, p in fold_batch_norm(network).named_parameters())
    assert facts.parameters == weights
    assert "TRANSPOSE" not in facts.operators
    assert facts.macs == networks.count("resnet8", classes=5, input_shape=SHAPE).macs
    assert facts.float_operators == ()


@pytest.mark.parametrize(
    "make, largest_error, share",
    [(quantize.float16, 0.002, 0.56), (quantize.dynamic_int8, 0.05, 0.33), (quantize.weight_only_int8, 0.05, 0.33)],
)
def test_weight_quantization(float_file, images, make, largest_error, share):
    dense = flatbuffer.shorten_names(float_file)
    made = flatbuffer.shorten_names(make(float_file))
    before = predict(dense, images)
    assert np.abs(predict(made, images) - before).max() < largest_error * np.abs(before).max()
    assert len(made) < share * len(dense)
    assert Runner(made).delegation() == (1, 1.0)


def test_full_integer_takes_raw_pixels_and_stays_one_partition(float_file, images):
    made = flatbuffer.shorten_names(quantize.static_int8(float_file, images))
    runner = Runner(made)
    assert runner.input["dtype"] is np.int8 and runner.output["dtype"] is np.int8
    assert runner.input["quantization"] == (1 / 128, 0)
    assert np.array_equal(runner.prepare(images), (images.astype(np.int16) - 128).astype(np.int8))
    assert runner.delegation() == (1, 1.0)
    assert flatbuffer.facts(made).float_operators == ()
    before = predict(float_file, images)
    assert np.abs(predict(made, images) - before).max() < 0.15 * np.abs(before).max()


def test_trained_scales_reach_the_file(network, images):
    graph = insert_fake_quantization(network)
    graph.train()
    batch = torch.from_numpy(to_float(images)).permute(0, 3, 1, 2)
    for _ in range(30):
        graph(batch)
    graph.eval()
    content = flatbuffer.shorten_names(convert(exportable(graph), SHAPE, quantized=True))
    runner = Runner(content)
    scales = {float(m.scale) for n, m in graph.named_modules() if n.startswith("quantizer_")}
    assert any(runner.output["quantization"][0] == pytest.approx(scale) for scale in scales)
    assert runner.input["quantization"] == (1 / 128, 0)
    assert runner.delegation()[0] == 1
    wanted = torch_scores(graph, images)
    step = runner.output["quantization"][0]
    # The integer kernels round between layers, fake quantization does not: steps of the output's grid, not bits.
    difference = np.abs(predict(content, images) - wanted) / step
    assert difference.max() < 6 and difference.mean() < 1


class Joined(nn.Module):
    """Two branches that are put side by side, and what a user's network may do to a map beside ReLUs."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.activation, self.norm, self.head = activation, nn.BatchNorm2d(8), nn.Linear(16, 10)

    def forward(self, x):
        both = torch.cat([self.activation(self.first(x)), self.norm(self.second(x)) - 0.5], 1)
        return self.head(both.mean((2, 3)))


@pytest.mark.parametrize(
    "activation",
    [nn.LeakyReLU(0.1), nn.SiLU(), nn.GELU(), *(nn.Sequential(a, nn.ReLU6()) for a in (nn.Sigmoid(), nn.Tanh()))],
    ids=("leaky", "silu", "gelu", "sigmoid", "tanh"),
)
def test_other_activations_are_trained_for_integers_too(activation, images):
    torch.manual_seed(0)
    check_integers(Joined(activation), images)


def check_integers(network, images):
    """What fake quantization makes of a network becomes a file of integers alone that answers nearly the same."""
    batch = torch.from_numpy(to_float(images)).permute(0, 3, 1, 2)
    graph = insert_fake_quantization(modular(network.eval(), batch[:1])).train()
    for _ in range(50):
        graph(batch)
    content = convert(exportable(graph.eval()), SHAPE, quantized=True)
    assert flatbuffer.facts(content).float_operators == ()
    step = Runner(content).output["quantization"][0]
    assert np.abs(predict(content, images) - torch_scores(graph, images)).max() / step < 4


class Dense(nn.Module):
    """A map goes on and is put beside what comes of it; so is the whole of both, and a pooled one, and the first map
    once more."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.layers = nn.ModuleList(nn.Conv2d(8 * n, 8, 3, padding=1) for n in (1, 2))
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(64, 10)

    def forward(self, x):
        x = first = self.stem(x)
        for layer in self.layers:
            x = torch.cat([torch.relu(layer(x)), x], 1)
        x = torch.cat([x, first], 1)
        x = torch.cat([self.pool(x), F.avg_pool2d(x, 2)], 1)
        return self.head(x.mean((2, 3)))


def test_maps_side_by_side_have_one_scale(images):
    torch.manual_seed(0)
    check_integers(Dense(), images)


def test_scales_that_cannot_be_one_are_refused():
    with pytest.raises(UserError, match="beside other maps .*; leave qat out"):
        insert_fake_quantization(modular(Joined(nn.Sigmoid()).eval(), torch.zeros(1, 3, 16, 16)))


@pytest.fixture(scope="module")
def pruned_file(network):
    import copy

    pruned = copy.deepcopy(network)
    layers = prunable_layers(pruned)
    with torch.no_grad():
        for layer, mask in zip(layers, lamp_masks([layer.weight for layer in layers], 0.85)):
            layer.weight *= mask
    return convert(fold_batch_norm(pruned), SHAPE)


@pytest.mark.parametrize("kind", ["float32", "float16", "weight_only_int8", "static_int8"])
def test_encoded_zeros_shrink_the_raw_file_bit_exactly(pruned_file, images, kind):
    content = pruned_file
    if kind == "static_int8":
        content = quantize.static_int8(content, images)
    elif kind != "float32":
        content = getattr(quantize, kind)(content)
    dense = flatbuffer.shorten_names(content)
    encoded = sparse.encode_zeros(dense)
    assert len(encoded) < 0.72 * len(dense)
    assert np.array_equal(predict(dense, images), predict(encoded, images))
    assert Runner(encoded).delegation()[0] == 1


@pytest.mark.parametrize("shape", [(16, 1, 1, 300), (300, 1, 1, 16), (40, 3, 3, 24), (270, 260)])
def test_positions_of_weights_take_the_axis_that_costs_least(shape):
    rng = np.random.default_rng(0)
    weights = rng.integers(1, 100, shape, np.int8) * (rng.random(shape) < 0.2)
    values, sparsity, index_bytes = sparse._compress(weights)
    costs = {axis: sparse._compress_along(weights, axis)[2] for axis in range(weights.ndim)}
    assert index_bytes == min(costs.values()) == costs[sparsity.traversalOrder[-1]]
    # What the runtime restores: every level but the last is dense, in the order of traversal.
    order = list(sparsity.traversalOrder)
    rows = np.zeros((weights.size // shape[order[-1]], shape[order[-1]]), np.int8)
    last = sparsity.dimMetadata[-1]
    bounds = np.asarray(last.arraySegments.values, int)
    for row, (start, end) in enumerate(zip(bounds, bounds[1:])):
        rows[row, last.arrayIndices.values[start:end]] = values[start:end]
    restored = rows.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))
    assert np.array_equal(restored, weights)


def test_a_dense_file_is_left_as_it_is(float_file):
    assert sparse.encode_zeros(float_file) is float_file


def test_dynamic_int8_refuses_encoded_zeros(pruned_file):
    with pytest.raises(ValueError, match="dynamically"):
        sparse.encode_zeros(quantize.dynamic_int8(pruned_file))


@pytest.mark.parametrize("depthwise", [False, True])
def test_filters_that_pruning_emptied_keep_their_biases_in_int8(depthwise, images):
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 8, 3, groups=8 if depthwise else 1)
    with torch.no_grad():
        layer.weight[:4] = 0
        layer.bias[:4] = 1.5
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), layer, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(8, 5),
    )  # fmt: skip
    content = convert(network.eval(), SHAPE)
    exact = predict(content, images)
    assert np.abs(predict(quantize.static_int8(content, images), images) - exact).max() < 0.03 * np.ptp(exact)


def test_predictions_do_not_depend_on_the_number_of_workers(float_file, images):
    many = np.concatenate([images] * 5)
    assert np.array_equal(predict(float_file, many, workers=1), predict(float_file, many, workers=3))


def test_what_is_no_model_is_refused_in_one_line(float_file):
    with pytest.raises(UserError) as caught:
        Runner(b"\x1c\x00\x00\x00TFL3" + b"\x00" * 100)
    assert "\n" not in str(caught.value)


def test_many_runners_at_once_leave_stderr_alone(float_file, images, tmp_path):
    import os

    saved = os.dup(2)
    with open(tmp_path / "stderr", "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        for _ in range(10):
            predict(float_file, np.concatenate([images] * 10), workers=6)
        os.write(2, b"still here")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
    assert (tmp_path / "stderr").read_bytes().endswith(b"still here")
