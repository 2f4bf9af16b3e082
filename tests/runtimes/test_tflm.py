"""TensorFlow Lite Micro: what it computes, what it needs, what it cannot run."""

import numpy as np
import pytest
import torch

from dlmo import networks
from dlmo.data.preprocessing import to_float
from dlmo.errors import UserError
from dlmo.runtimes.litert import flatbuffer, quantize, sparse
from dlmo.runtimes.litert import interpreter as litert
from dlmo.runtimes.litert.convert import convert
from dlmo.techniques.fake_quantization import fold_batch_norm

pytest.importorskip("tflite_micro")
from dlmo.runtimes.tflm import interpreter as tflm  # noqa: E402
from dlmo.runtimes.tflm.flash import BASE_BYTES, KERNEL_BYTES, RESOLVER_METHODS, flash  # noqa: E402

SHAPE = (16, 16, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def raw_file(images):
    """As the converter writes it; batch norms have seen the images, so that the classes differ."""
    torch.manual_seed(0)
    model = networks.build("resnet8", classes=5, input_shape=SHAPE).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.from_numpy(to_float(images)).permute(0, 3, 1, 2))
    return convert(fold_batch_norm(model.eval()), SHAPE)


@pytest.fixture(scope="module")
def int8_file(raw_file, images):
    return flatbuffer.shorten_names(quantize.static_int8(raw_file, images))


def test_int8_and_float_files_agree_with_litert(raw_file, int8_file, images):
    short = flatbuffer.shorten_names(raw_file)
    assert np.allclose(tflm.predict(short, images), litert.predict(short, images), atol=1e-4)
    ours, micro = litert.predict(int8_file, images), tflm.predict(int8_file, images)
    scale, _ = litert.Runner(int8_file).output["quantization"]
    # Kernels round differently in each layer; nine layers leave a few steps of 256.
    assert np.abs(ours - micro).max() < 6.5 * scale
    assert (ours.argmax(1) == micro.argmax(1)).mean() >= 0.95


def test_int8_computes_what_the_reference_kernels_of_litert_do(int8_file, images):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    reference = Interpreter(model_content=int8_file, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    reference.allocate_tensors()
    runner = litert.Runner(int8_file)
    scale, zero_point = runner.output["quantization"]
    for image, micro in zip(runner.prepare(images), tflm.predict(int8_file, images)):
        reference.set_tensor(runner.input["index"], image[None])
        reference.invoke()
        wanted = reference.get_tensor(runner.output["index"])[0].astype(int)
        assert np.abs(np.round(micro / scale) + zero_point - wanted).max() <= 1


def test_scores_do_not_depend_on_the_number_of_processes(int8_file, images):
    shares = []
    one = tflm.predict(int8_file, images, workers=1, progress=shares.append)
    assert np.array_equal(one, tflm.predict(int8_file, images, workers=2))
    assert shares[-1] == 1.0 and shares == sorted(shares)


def test_the_arena_is_what_the_runtime_needs_to_the_byte(int8_file):
    from tflite_micro.python.tflite_micro import runtime

    arena = tflm.arena(int8_file)
    assert arena.head > 0 and arena.persistent > 0 and arena.total == arena.head + arena.persistent
    runtime.Interpreter.from_bytes(int8_file, arena_size=arena.total)
    with litert.quiet(), pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(int8_file, arena_size=arena.total - 512)


def test_int8_needs_about_a_quarter_of_the_float_activations(raw_file, int8_file):
    in_float = tflm.arena(flatbuffer.shorten_names(raw_file))
    assert 3.5 < in_float.head / tflm.arena(int8_file).head <= 4.1


def test_flash_is_the_model_with_the_kernels_it_needs(int8_file):
    found = flash(int8_file)
    assert found.model == len(int8_file) and found.unknown == ()
    assert found.code == BASE_BYTES + sum(KERNEL_BYTES[name] for name in ("ADD", "PAD", "MEAN", "FULLY_CONNECTED"))
    assert "estimated" in found.source
    model = flatbuffer.read(int8_file)
    for code in model.operatorCodes:
        if flatbuffer.schema.BuiltinOperator.PAD in (code.builtinCode, code.deprecatedBuiltinCode):
            code.builtinCode = code.deprecatedBuiltinCode = flatbuffer.schema.BuiltinOperator.MIRROR_PAD
    other = flash(flatbuffer.write(model))
    assert other.unknown == ("MIRROR_PAD",) and "without MIRROR_PAD" in other.source


def test_every_operator_that_can_be_registered_has_its_size():
    assert set(KERNEL_BYTES) | {"CONV_2D"} == set(RESOLVER_METHODS)
    assert all(size > 0 for size in KERNEL_BYTES.values())


@pytest.mark.parametrize(
    "make, reason",
    [
        (quantize.float16, "dequantize"),
        (quantize.dynamic_int8, "Hybrid models are not supported"),
        (quantize.weight_only_int8, "scale per channel"),  # it would run, with wrong scores
    ],
)
def test_precisions_it_cannot_run_are_refused_with_its_reason(raw_file, make, reason):
    with pytest.raises(UserError, match=reason) as caught:
        tflm.arena(flatbuffer.shorten_names(make(raw_file)))
    assert "\n" not in str(caught.value)


def test_encoded_zeros_are_refused(int8_file):
    model = flatbuffer.read(int8_file)
    random = np.random.default_rng(0)
    for tensor in model.subgraphs[0].tensors:
        weights = flatbuffer.constant(model, tensor)
        if weights is not None and weights.dtype == np.int8 and weights.size > 100:
            kept = np.where(random.random(weights.shape) < 0.9, 0, weights).astype(np.int8)
            model.buffers[tensor.buffer].data = kept.view(np.uint8).reshape(-1)
    with pytest.raises(UserError, match="DENSIFY"):
        tflm.predict(sparse.encode_zeros(flatbuffer.write(model)), np.zeros((2, *SHAPE), np.uint8))


def test_buffers_out_of_line_are_refused_and_mended_by_writing_again(int8_file, images):
    # Such a file keeps one buffer's bytes behind the tables and only its place inside them.
    model = flatbuffer.read(int8_file)
    index = next(i for i, buffer in enumerate(model.buffers) if buffer.data is not None and len(buffer.data) > 1000)
    data = bytes(model.buffers[index].data)
    model.buffers[index].data, model.buffers[index].size = None, len(data)
    model.buffers[index].offset = 1 << 20  # holds the place: a field of value 0 would not be written
    start = -(-len(flatbuffer.write(model)) // 16) * 16
    model.buffers[index].offset = start
    content = flatbuffer.write(model).ljust(start, b"\0") + data
    assert np.array_equal(litert.predict(content, images), litert.predict(int8_file, images))
    with pytest.raises(UserError, match="one piece"):
        tflm.arena(content)
    again = flatbuffer.write(flatbuffer.read(content))
    assert np.array_equal(tflm.predict(again, images), tflm.predict(int8_file, images))


@pytest.mark.parametrize("content", [b"", b"TFL3" * 100])
def test_what_is_no_model_is_refused_in_one_line(content):
    with pytest.raises(UserError, match="no readable .tflite file") as caught:
        tflm.arena(content)
    assert "\n" not in str(caught.value)


def test_damaged_files_never_take_this_process_down(int8_file, images):
    """Bytes changed among the tables: a clear refusal or a run, nothing else."""
    random = np.random.default_rng(0)
    for _ in range(12):
        damaged = bytearray(int8_file)
        for place in random.integers(0, len(damaged), 40):
            damaged[place] ^= 1 << int(random.integers(0, 8))
        try:
            assert tflm.predict(bytes(damaged), images[:1]).shape[0] == 1
        except UserError as error:
            assert "\n" not in str(error)


def test_images_of_another_shape_are_refused(int8_file):
    with pytest.raises(UserError, match="takes images of"):
        tflm.predict(int8_file, np.zeros((3, 8, 8, 3), np.uint8))


def test_without_the_extra_the_way_to_get_it_is_named(monkeypatch, int8_file):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt '.\[mcu\]'"):
        tflm.arena(int8_file)
