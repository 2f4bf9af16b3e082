"""Own models from file to result: code outside the package, a state dict as scripts leave it, a float .tflite."""

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from dlmo.data import load
from dlmo.errors import UserError
from dlmo.networks.normalization import KNOWN, Normalization, normalized, parse
from dlmo.networks.own import Source
from dlmo.progress import SilentProgress
from dlmo.report.model_card import model_card
from dlmo.runtimes.litert.convert import convert
from dlmo.runtimes.litert.flatbuffer import shorten_names
from dlmo.runtimes.litert.interpreter import Runner, predict
from dlmo.runtimes.litert.quantize import dynamic_int8, float16
from dlmo.strategy.compress import compress
from dlmo.strategy.optimize import optimize
from dlmo.strategy.options import Options
from dlmo.strategy.own import Request, open_own, open_source, take_in
from dlmo.strategy.study import study
from dlmo.techniques.fake_quantization import fold_batch_norm

CODE = Path(__file__).with_name("own_code.py")
# Nothing on the list of common ones.
MEAN, STD = 0.3, 0.4


def own_code():
    spec = importlib.util.spec_from_file_location("own_code", CODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(digits):
    """The user's network, trained in the user's own way on pixels of mean 0.3 and deviation 0.4."""
    torch.manual_seed(0)
    network = own_code().small()
    images = (torch.from_numpy(digits.train.images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    labels = torch.from_numpy(digits.train.labels)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(3):
        for chosen in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def weights(trained, tmp_path_factory):
    """A checkpoint as DataParallel training scripts write it."""
    path = tmp_path_factory.mktemp("weights") / "my best model.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, path)
    return path


def taken(digits, model, network=None, mean=None, std=None):
    request = Request(str(model), network, mean, std)
    return take_in(open_source(request), request, digits, "auto", SilentProgress())


def scores(module, split) -> np.ndarray:
    inputs = (torch.from_numpy(split.images).permute(0, 3, 1, 2).float() - 128) / 128
    with torch.inference_mode():
        return module.eval()(inputs).numpy()


def wanted_scores(trained, split) -> np.ndarray:
    with torch.inference_mode():
        return trained((torch.from_numpy(split.images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD).numpy()


def test_weights_with_own_code_compute_what_they_did(trained, weights, digits):
    own = taken(digits, weights, f"{CODE}:small", "0.3", "0.4")
    assert own.name == "own:my_best_model"
    assert own.post_training_only is None
    assert np.allclose(scores(own.module, digits.test), wanted_scores(trained, digits.test), atol=1e-3)
    right = (wanted_scores(trained, digits.validation).argmax(1) == digits.validation.labels).mean()
    assert f"{100 * right:.1f} % right on 288" in own.notes[-1]


@pytest.mark.parametrize("prefix", ["", "model.", "_orig_mod.module."])
def test_prefixes_and_safetensors(prefix, trained, digits, tmp_path):
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "w.safetensors")
    own = taken(digits, tmp_path / "w.safetensors", f"{CODE}:ten", "0.3", "0.4")
    assert np.allclose(scores(own.module, digits.test), wanted_scores(trained, digits.test), atol=1e-3)


def test_an_exported_program(trained, digits, tmp_path):
    torch.export.save(torch.export.export(trained, (torch.zeros(1, 1, 16, 16),)), tmp_path / "net.pt2")
    own = taken(digits, tmp_path / "net.pt2", mean="0.3", std="0.4")
    assert "no layers that could be trained" in own.post_training_only
    right = (wanted_scores(trained, digits.validation).argmax(1) == digits.validation.labels).mean()
    assert f"{100 * right:.1f} % right on 288" in own.notes[-1]
    run = study("digits", model=str(tmp_path / "net.pt2"), mean="0.3", std="0.4", setup=["NQ", "FIQ"])
    plain, integer = run.results
    expected = (wanted_scores(trained, digits.test).argmax(1) == digits.test.labels).mean()
    assert plain.accuracy == pytest.approx(expected, abs=0.005)
    assert integer.accuracy > expected - 0.02


def test_a_registry_network(digits, tmp_path):
    from dlmo.networks import build

    network = build("resnet8@0.25", classes=10, input_shape=(16, 16, 1)).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    own = taken(digits, tmp_path / "w.pth", "ResNet8@0.250", "dlmo")
    assert np.allclose(scores(own.module, digits.test), scores(network, digits.test), atol=1e-4)
    assert "better than always answering" in own.notes[-1], "untrained, so at chance"
    other = taken(digits, tmp_path / "w.pth", "ResNet8@0.250:medium", "dlmo")
    assert other.fingerprint != own.fingerprint, "the same weights, other strides"


def test_the_fingerprint_follows_weights_and_normalization(weights, digits, trained, tmp_path):
    base = taken(digits, weights, f"{CODE}:small", "0.3", "0.4").fingerprint
    assert taken(digits, weights, f"{CODE}:small", "0.3", "0.4").fingerprint == base
    assert taken(digits, weights, f"{CODE}:small", "0.3", "0.5").fingerprint != base
    state = {name: tensor + 1 if name == "linear.bias" else tensor for name, tensor in trained.state_dict().items()}
    torch.save(state, tmp_path / "other.pt")
    assert taken(digits, tmp_path / "other.pt", f"{CODE}:small", "0.3", "0.4").fingerprint != base


class Expects(torch.nn.Module):
    """The trained network, rewritten to want other pixel values than its own."""

    def __init__(self, network, normalization):
        super().__init__()
        self.network = network
        self.mean = float(np.mean(normalization.mean))
        self.std = float(np.mean(normalization.std))

    def forward(self, x):
        return self.network((x * self.std + self.mean - MEAN) / STD)


@pytest.mark.parametrize("name", ["pixels", "imagenet", "dlmo"])
def test_the_normalization_is_inferred(name, trained, digits):
    """dlmo and half differ by half a pixel level: either may win."""
    source = Source("own:x", lambda classes, shape, stem: Expects(trained, KNOWN[name]).eval(), "x", 1)
    own = take_in(source, Request("x"), digits, "auto", SilentProgress())
    assert own.notes[0].startswith("normalization inferred on 288 validation images: "), own.notes[0]
    right = (wanted_scores(trained, digits.test).argmax(1) == digits.test.labels).mean()
    assert (scores(own.module, digits.test).argmax(1) == digits.test.labels).mean() > right - 0.01


def test_the_order_of_colours_is_taken_as_given():
    colour = load("digits", channels=3)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 10, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    source = Source("own:x", lambda classes, shape, stem: network.eval(), "x", 3)
    own = take_in(source, Request("x", mean="unit", channel_order="bgr"), colour, "auto", SilentProgress())
    pixels = torch.randint(0, 256, (2, 3, 16, 16)).float()
    with torch.no_grad():
        assert torch.allclose(own.module((pixels - 128) / 128), network(pixels.flip(1) / 255), atol=1e-5)
    named = take_in(source, Request("x", mean="imagenet", channel_order="bgr"), colour, "auto", SilentProgress())
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (KNOWN["imagenet"].mean, KNOWN["imagenet"].std))
    with torch.no_grad():
        wanted = network(((pixels / 255 - mean) / std).flip(1))  # red has red's mean, wherever it stands
        assert torch.allclose(named.module((pixels - 128) / 128), wanted, atol=1e-4)
    for order, message in (("gbr", "rgb or bgr"), ("bgr", "belong to --model")):
        with pytest.raises(UserError, match=message):
            open_own("net.pt" if order == "gbr" else None, [], None, None, order)


def test_swapped_colours():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    pixels = torch.randint(0, 256, (2, 3, 8, 8)).float()
    for bgr in (False, True):
        normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), bgr)
        seen = pixels.flip(1) if bgr else pixels
        mean, std = (torch.tensor(v)[:, None, None] for v in (normalization.mean, normalization.std))
        wanted = network((seen / 255 - mean) / std)
        assert torch.allclose(normalized(network, normalization, 3)((pixels - 128) / 128), wanted, atol=1e-5)


def test_the_normalized_file_is_one_delegated_part_in_float_and_int8(weights, digits):
    from dlmo.runtimes.litert.quantize import static_int8

    own = taken(digits, weights, f"{CODE}:small", "0.3", "0.4")
    content = convert(fold_batch_norm(own.module), (16, 16, 1))
    quantized = static_int8(content, digits.train.images[:100])
    assert Runner(content).delegation() == Runner(quantized).delegation() == (1, 1.0)
    answers = [predict(file, digits.test.images).argmax(1) for file in (content, quantized)]
    assert (answers[0] == answers[1]).mean() > 0.97


def test_compress_to_int8_and_through_everything(weights, digits, tmp_path, shared_store):
    """The recipes that the tool promises for any network; all start from the same weights."""
    found = {}
    for recipe in ("int8", "prune_channels(0.5) > qat > int8", "prune_blocks(1) > qat > int8"):
        options = Options(epochs=3, out=tmp_path / "out", store=shared_store)
        run = compress(
            weights, "digits", recipe=recipe, network=f"{CODE}:small", mean="0.3", std="0.4", options=options
        )
        plain, compressed = run.results
        assert (plain.setup, plain.epochs) == ("NQ", 0)
        assert run.choice.result is compressed
        assert compressed.partitions == 1 and not compressed.float_operators
        assert compressed.accuracy > plain.accuracy - 0.05
        assert (tmp_path / "out" / "model.tflite").stat().st_size == compressed.size_bytes
        document = json.loads((tmp_path / "out" / "results.json").read_text())
        assert document["choice"]["recipe"] == f"own:my_best_model > {recipe}"
        assert any("as given" in note for note in document["notes"])
        found[recipe] = compressed
    assert found["prune_channels(0.5) > qat > int8"].size_bytes < 0.6 * found["int8"].size_bytes
    assert found["prune_channels(0.5) > qat > int8"].macs < 0.35 * found["int8"].macs
    assert found["prune_blocks(1) > qat > int8"].macs < 0.8 * found["int8"].macs


def test_study_and_optimize_start_from_the_model(weights, shared_store):
    arguments = {"model": weights, "network": [f"{CODE}:small"], "mean": "0.3", "std": "0.4"}
    options = Options(time=None, epochs=1, store=shared_store)
    run = study("digits", setup=["F16"], recipe=["dynamic_int8"], options=options, **arguments)
    assert [result.recipe for result in run.results] == [
        "own:my_best_model > float16", "own:my_best_model > dynamic_int8",
    ]  # fmt: skip
    assert f"--network {CODE}:small" in run.title


def test_a_model_that_comes_trained_learns_further_from_itself(weights, shared_store):
    options = Options(epochs=1, store=shared_store)

    def squeezed(recipe):
        run = compress(
            weights, "digits", recipe=recipe, network=f"{CODE}:small", mean="0.3", std="0.4", options=options
        )
        return run.choice.result

    taught, alone = squeezed("kd(self) > qat > int8"), squeezed("qat > int8")
    assert (taught.setup, alone.setup) == ("KD+QAT", "QAT")
    assert taught.epochs == alone.epochs
    assert taught.validation_accuracy > 0.8
    for recipe, reason in (
        ("kd > qat > int8", "comes trained.* its teacher can be itself"),
        ("kd(self, generations=2) > qat > int8", "comes trained.* its teacher can be itself"),
        ("kd(self) > int8", "add a step that trains it further"),
    ):
        with pytest.raises(UserError, match=reason):
            squeezed(recipe)


@pytest.fixture
def float_file(trained, tmp_path):
    """As another tool may have written it: its own normalization, no names left."""
    path = tmp_path / "bought.tflite"
    path.write_bytes(shorten_names(convert(fold_batch_norm(trained), (16, 16, 1))))
    return path


def test_a_float_tflite_goes_through_post_training_setups(float_file, trained, digits, shared_store):
    options = Options(epochs=1, store=shared_store)
    run = optimize("digits", model=float_file, mean="0.3", std="0.4", options=options)
    assert [result.setup for result in run.results] == ["NQ", "BLQ", "FIQ", "F16"]
    right = (wanted_scores(trained, digits.test).argmax(1) == digits.test.labels).mean()
    assert run.results[0].accuracy == pytest.approx(right, abs=0.003)
    for result in run.results:
        # The int8 kernels leave out the average pooling of this code, with or without our layer in front.
        assert result.delegated == 1 or result.setup == "FIQ"
        assert result.accuracy > right - 0.03, result.setup
    assert "training" not in run.machine, "nothing was trained"
    assert not any("augmentation" in note or "the loss weighs" in note for note in run.notes)
    assert "trained elsewhere and measured on digits" in model_card(run)
    with pytest.raises(UserError, match='"qat" trains the network further.*a .tflite file holds no trainable'):
        compress(float_file, "digits", recipe="qat > int8", mean="0.3", std="0.4", options=options)


def test_a_tflite_is_fed_as_the_file_beside_it_says(float_file, digits):
    noted = {"normalize": {"offset": 76.5, "scale": 102.0}}  # mean 0.3, std 0.4
    (float_file.parent / "preprocessing.json").write_text(json.dumps(noted))
    found = taken(digits, float_file)
    assert found.notes[0].startswith("normalization: mean 0.3, std 0.4, as preprocessing.json beside")
    notes = taken(digits, float_file, mean="0.5", std="0.5").notes
    assert "preprocessing.json" not in " ".join(notes), "what is given counts"


def test_zeros_of_a_model_that_comes_pruned_are_told_and_kept(trained, digits, shared_store, tmp_path):
    state = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    for tensor in state.values():
        if tensor.ndim == 4 and tensor.numel() > 1000:
            tensor[: len(tensor) // 2] = 0.0
    torch.save(state, tmp_path / "pruned.pt")
    options = Options(epochs=1, store=shared_store)
    run = study(
        "digits", setup=["NQ", "QAT"], model=tmp_path / "pruned.pt", network=[f"{CODE}:small"], mean="0.3", std="0.4",
        options=options,
    )  # fmt: skip
    assert all(result.sparsity > 0.4 for result in run.results)
    assert all("DENSIFY" not in result.operators for result in run.results), "stored as any other: no step pruned it"


def test_a_tflite_keeps_the_size_of_its_images(float_file, shared_store):
    options = Options(epochs=1, store=shared_store, input_size=32)
    with pytest.raises(UserError, match="takes 16x16x1, not 32x32x1: leave out --input-size"):
        compress(float_file, "digits", recipe="int8", mean="0.3", std="0.4", options=options)


def test_a_stem_is_for_networks_that_have_one(weights, digits):
    source = open_source(Request(str(weights), f"{CODE}:small"))
    with pytest.raises(UserError, match="--stem large: .* is as it is; leave it out"):
        take_in(source, Request(str(weights), f"{CODE}:small"), digits, "large", SilentProgress())


def test_code_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "blocks_beside.py").write_text("from torch import nn\nlayer = nn.Conv2d(1, 4, 3)\n")
    (tmp_path / "net_beside.py").write_text("from blocks_beside import layer\ndef make():\n    return layer\n")
    assert open_source(Request(f"{tmp_path / 'net_beside.py'}:make")).channels == 1


@pytest.mark.parametrize("colours", [1, 3])
def test_colours_are_told_by_any_file_of_weights(colours, tmp_path):
    """A file sorted by name may begin with a depthwise convolution, which reads one channel at a time."""
    weights = {"blocks.dw.weight": torch.zeros(8, 1, 3, 3), "stem.weight": torch.zeros(8, colours, 3, 3)}
    save_file(weights, tmp_path / "w.safetensors")
    assert open_source(Request(str(tmp_path / "w.safetensors"), "mobilenet_v2")).channels == colours


def test_a_tflite_that_takes_channels_first_is_refused(float_file, tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    from dlmo.runtimes.litert import flatbuffer

    model = flatbuffer.read(float_file.read_bytes())
    graph = model.subgraphs[0]
    old = int(graph.inputs[0])
    order = flatbuffer_constant(model, graph, [0, 2, 3, 1])
    image = schema.TensorT()
    image.shape, image.type, image.buffer, image.name = [1, 1, 16, 16], schema.TensorType.FLOAT32, 0, b"image"
    graph.tensors.append(image)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE
    code.version = 1
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs, operator.outputs = [len(graph.tensors) - 1, order], [old]
    graph.operators.insert(0, operator)
    graph.inputs = [len(graph.tensors) - 1]
    model.signatureDefs = []
    (tmp_path / "nchw.tflite").write_bytes(flatbuffer.write(model))
    with pytest.raises(UserError, match="nchw.tflite takes channels first; convert it to take height x width"):
        open_source(Request(str(tmp_path / "nchw.tflite")))


def flatbuffer_constant(model, graph, values: list[int]) -> int:
    """Add an int32 constant; its index."""
    from ai_edge_litert import schema_py_generated as schema

    buffer, tensor = schema.BufferT(), schema.TensorT()
    buffer.data = np.frombuffer(np.array(values, np.int32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.shape, tensor.type, tensor.buffer, tensor.name = (
        [len(values)], schema.TensorType.INT32, len(model.buffers) - 1, b"order"
    )  # fmt: skip
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def test_scores_that_are_no_numbers_are_named(digits):
    with pytest.raises(UserError, match="own_code.py:lost gives scores that are no numbers"):
        taken(digits, f"{CODE}:lost", mean="half")


def test_code_that_follows_its_input_is_refused_in_one_line(digits, capfd):
    with pytest.raises(UserError, match="cannot be traced by torch.fx .*, nor exported") as caught:
        taken(digits, f"{CODE}:by_content", mean="half")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_images_the_model_may_know_are_told(digits, weights):
    own = taken(digits, weights, f"{CODE}:small", "0.3", "0.4")
    assert digits.test_cut and any("the test images were cut from yours" in note for note in own.notes)
    apart = taken(replace(digits, test_cut=False), weights, f"{CODE}:small", "0.3", "0.4")
    assert not any("were cut from yours" in note for note in apart.notes)


def test_code_that_cannot_be_traced_is_still_converted(digits):
    own = taken(digits, f"{CODE}:branching", mean="half")
    assert "cannot be traced" in own.post_training_only
    content = convert(fold_batch_norm(own.module), (16, 16, 1))
    images = digits.test.images[:20]
    assert np.allclose(predict(content, images), scores(own.module, digits.test.take(np.arange(20))), atol=1e-3)


@pytest.mark.parametrize("as_program", [False, True])
def test_maps_that_are_viewed_as_rows(as_program, digits, tmp_path):
    torch.manual_seed(0)
    model, network = f"{CODE}:lenet", own_code().lenet().eval()
    if as_program:
        model, sizes = tmp_path / "lenet.pt2", ({0: torch.export.Dim("batch", min=1, max=1024)},)
        torch.export.save(torch.export.export(network, (torch.zeros(2, 1, 16, 16),), dynamic_shapes=sizes), model)
    own = taken(digits, model, mean="half")
    some = digits.test.take(np.arange(20))
    if as_program:
        pixels = (torch.from_numpy(some.images[..., 0])[:, None] - 127.5) / 127.5  # in torch's own order
        with torch.inference_mode():
            assert np.allclose(scores(own.module, some), network(pixels).numpy(), atol=1e-5)
    content = convert(fold_batch_norm(own.module), (16, 16, 1))
    assert np.allclose(predict(content, some.images), scores(own.module, some), atol=1e-4)


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_with_code_is_refused_and_nothing_runs(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"state_dict": Malicious(mark)}, tmp_path / "zip.pt")
    torch.save({"state_dict": Malicious(mark)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Malicious(mark)))
    for name in ("zip.pt", "old.pt", "bare.pth"):
        with pytest.raises(UserError, match="could run code"):
            open_source(Request(str(tmp_path / name), "resnet8"))
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")  # a whole network is code too
    with pytest.raises(UserError, match="could run code"):
        open_source(Request(str(tmp_path / "whole.pt"), f"{CODE}:small"))
    assert not mark.exists()
    pickle.loads(pickle.dumps(Malicious(mark)))
    assert mark.exists(), "the test's own charge works"


def test_what_does_not_fit_is_named(weights, trained, digits, tmp_path):
    with pytest.raises(UserError, match="missing: stem.conv.weight, .*unexpected: conv1.weight"):
        taken(digits, weights, "resnet8")
    state = dict(trained.state_dict())
    state["layer1.conv1.weight"] = state["layer1.conv1.weight"][:8]
    torch.save(state, tmp_path / "cut.pt")
    with pytest.raises(UserError, match=r"another shape: layer1.conv1.weight \(8x16x3x3 in the file, 16x16x3x3"):
        taken(digits, tmp_path / "cut.pt", f"{CODE}:small")
    torch.save(own_code().three().state_dict(), tmp_path / "three.pt")
    with pytest.raises(UserError, match="scores 3 classes, but the data has 10"):
        taken(digits, tmp_path / "three.pt", f"{CODE}:small")
    with pytest.raises(UserError, match="scores 3 classes, but digits has 10"):
        taken(digits, f"{CODE}:three")


@pytest.mark.parametrize(
    "model, network, message",
    [
        (f"{CODE}:smal", None, "has no function smal; it has"),
        (f"{CODE}:not_a_network", None, "returns a int"),
        (f"{CODE}:broken", None, "does not make a network: KeyError"),
        (f"{CODE}", None, "name the function"),
        (f"{CODE}:small", "resnet8", "is a network already"),
        ("nowhere.py:small", None, "there is no file"),
        ("nowhere.pt", "resnet8", "there is no file"),
        ("nowhere.pt", None, "there is no file"),
        ("nowhere.pt2", None, "there is no file"),
        ("nowhere.tflite", None, "cannot read the model"),
        ("net.onnx", None, "reads no ONNX"),
        ("net.bin", None, "give file.py:FUNCTION"),
    ],
)
def test_mistakes_are_named_before_data_is_read(model, network, message):
    with pytest.raises(UserError, match=message):
        open_source(Request(model, network))


def test_weights_need_a_network(weights, digits, tmp_path):
    with pytest.raises(UserError, match="add --network"):
        open_source(Request(str(weights)))
    with pytest.raises(UserError, match="did you mean"):
        open_source(Request(str(weights), "resnett8"))
    (tmp_path / "junk.pt").write_bytes(b"junk")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match="empty.safetensors does not fit the network"):
        taken(digits, tmp_path / "empty.safetensors", "resnet8")
    for name in ("junk.pt", "junk.safetensors"):
        with pytest.raises(UserError, match=name):
            open_source(Request(str(tmp_path / name), "resnet8"))


def test_mean_and_std():
    assert parse(None, None) is None
    assert parse("imagenet", None) == KNOWN["imagenet"]
    assert parse("0.5", "0.25") == Normalization((0.5,), (0.25,))
    assert parse("0.1,0.2, 0.3", "1 1 1") == Normalization((0.1, 0.2, 0.3), (1.0, 1.0, 1.0))
    assert parse("127.5", "127.5") == parse("half", None) == parse("0.5", "0.5")
    assert parse("128", "128") == parse("0.501961", "0.501961,0.501961,0.501961") == KNOWN["dlmo"]
    for mean, std in (("0.1,0.2", "1"), ("x", "1"), ("0.5", "0")):
        with pytest.raises(UserError, match="--mean|--std"):
            parse(mean, std)


def test_a_file_with_a_dataclass_runs(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n\n\n"
        "@dataclass\nclass Config:\n    width: int = 8\n\n\n"
        "def make():\n    return nn.Conv2d(1, Config().width, 3)\n"
    )
    assert open_source(Request(f"{path}:make")).name == "own:make"


def test_a_function_with_weights_for_its_own_classes_is_looked_at_with_these(tmp_path):
    path = tmp_path / "net_of_three.py"
    path.write_text(
        "from torch import nn\n\ndef net(count):\n    return nn.Sequential(nn.Conv2d(3, count, 3), nn.Flatten())\n\n"
        "def make(num_classes=3):\n    built = net(num_classes)\n    built.load_state_dict(net(3).state_dict())\n"
        "    return built\n\ndef asks(classes):\n    return make(classes)\n"
    )
    for function, channels in (("make", 3), ("asks", None)):
        source = open_source(Request(f"{path}:{function}"))
        assert source.channels == channels
        assert isinstance(source.make(3, (16, 16, 3), "auto"), torch.nn.Module)


@pytest.mark.parametrize(
    "text, message",
    [
        ("import sys\nsys.exit('usage: train.py')", "does not run: SystemExit: usage"),
        ("from torch import nn\nmake = nn.Conv2d(1, 2, 3)", "make is a network, not a function"),
        ("from functools import partial\nmake = partial(int, 'x')", "does not make a network: ValueError"),
        ("def make():\n    raise SystemExit(3)", "does not make a network: SystemExit: 3"),
    ],
)
def test_what_is_no_function_that_makes_a_network(text, message, tmp_path):
    path = tmp_path / "odd_net.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(Request(f"{path}:make"))


def test_settings_that_layers_do_not_print_are_in_the_fingerprint():
    from dlmo.networks.own import fingerprint

    digests = {
        fingerprint(torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=corners), "x")
        for corners in (False, True, False)
    }
    assert len(digests) == 2


def test_what_the_target_cannot_run_is_not_compared_with(monkeypatch):
    asked = []

    def run_job(source, job, options, progress):
        asked.append([str(recipe) for recipe in job.recipes_for(0)])
        return SimpleNamespace(run=None)

    monkeypatch.setattr(sys.modules["dlmo.strategy.compress"], "run_job", run_job)
    for target in ("cpu", "npu"):
        compress(f"{CODE}:small", "digits", recipe="int8", options=Options(target=target))
    assert asked == [["own:small > float32", "own:small > int8"], ["own:small > int8"]]


def test_a_state_dict_beside_other_tensors(trained, digits, tmp_path):
    state = {"epoch": 3, "best_acc1": torch.tensor(71.3), "state_dict": trained.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pth")
    assert taken(digits, tmp_path / "checkpoint.pth", f"{CODE}:small", "0.3", "0.4").post_training_only is None


def test_a_network_that_ends_in_softmax_is_not_trained_further(digits):
    own = taken(digits, f"{CODE}:shares", mean="half")
    assert own.post_training_only.startswith("it ends in softmax")
    assert np.allclose(scores(own.module, digits.test).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("form", [float16, dynamic_int8])
def test_a_tflite_of_rounded_weights_is_refused(form, trained, tmp_path):
    (tmp_path / "rounded.tflite").write_bytes(form(convert(fold_batch_norm(trained), (16, 16, 1))))
    with pytest.raises(UserError, match="weights that are quantized or sparse already; give the float model"):
        open_source(Request(str(tmp_path / "rounded.tflite")))


def test_what_own_code_prints_is_not_in_the_document(tmp_path, shared_store):
    command = [
        sys.executable, "-m", "dlmo", "compress", f"{CODE}:talking", "digits", "--recipe", "int8", "--mean", "half",
        "--json",
    ]  # fmt: skip
    environment = {**os.environ, "DLMO_STORE": str(shared_store)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"] and "building" in done.stderr
