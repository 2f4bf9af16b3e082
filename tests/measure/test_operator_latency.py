"""What each operator adds to a file's latency; the clock is replaced, as tests are never timed."""

import io
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from rich.console import Console

from dlmo import networks
from dlmo.errors import UserError
from dlmo.measure import operator_latency
from dlmo.measure.feeding import FeedOptions
from dlmo.measure.layers import inspect
from dlmo.report.layers import print_inspection
from dlmo.runtimes.litert import flatbuffer, quantize, sparse
from dlmo.runtimes.litert.beginning import beginning, computing
from dlmo.runtimes.litert.convert import convert

TENSORFLOW = Path(__file__).parent / "tensorflow"
SHAPE = (16, 16, 1)


@pytest.fixture(scope="module")
def plain():
    return convert(networks.build("resnet8@0.25", classes=10, input_shape=SHAPE).eval(), SHAPE)


@pytest.fixture(scope="module")
def files(plain):
    zeroed = flatbuffer.read(plain)
    for buffer in zeroed.buffers:
        if buffer.data is not None and len(buffer.data) > 400:
            weights = np.frombuffer(bytes(buffer.data), np.float32).copy()
            weights[np.abs(weights) < np.quantile(np.abs(weights), 0.9)] = 0
            buffer.data = weights.view(np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), np.uint8)
    return {
        "float32": plain,
        "int8": quantize.static_int8(plain, images),
        "zeros": sparse.encode_zeros(flatbuffer.write(zeroed)),
        "elsewhere": (TENSORFLOW / "uint8_softmax.tflite").read_bytes(),
    }


@pytest.mark.parametrize("name", ["float32", "int8", "zeros", "elsewhere"])
def test_every_beginning_computes_what_the_whole_file_does(files, name):
    whole = Interpreter(model_content=files[name], experimental_preserve_all_tensors=True)
    whole.allocate_tensors()
    entry = whole.get_input_details()[0]
    image = np.random.default_rng(1).integers(0, 100, entry["shape"]).astype(entry["dtype"])
    whole.set_tensor(entry["index"], image)
    whole.invoke()
    runs = computing(flatbuffer.read(files[name]))
    sizes = []
    for index, does in enumerate(runs):
        if not does:
            continue
        content = beginning(files[name], index + 1)
        part = Interpreter(model_content=content)
        part.allocate_tensors()
        part.set_tensor(part.get_input_details()[0]["index"], image)
        part.invoke()
        outputs = part.get_output_details()
        assert outputs, index
        for output in outputs:
            np.testing.assert_array_equal(part.get_tensor(output["index"]), whole.get_tensor(output["index"]))
        sizes.append(len(content))
    assert len(sizes) > 8 and sizes[0] < 0.8 * sizes[-1], "weights of later operators are left out"


def test_zeros_that_are_encoded_cost_nothing_per_image(files):
    model = flatbuffer.read(files["zeros"])
    names = [flatbuffer.operator_name(model, operator) for operator in model.subgraphs[0].operators]
    assert {name for name, runs in zip(names, computing(model)) if not runs} == {"DENSIFY"}
    assert names.count("DENSIFY") > 2


@pytest.mark.parametrize("name", ["int8", "zeros"])
def test_an_operator_adds_what_its_graph_takes_more(files, name, monkeypatch):
    """A clock by which a run takes 3 microseconds and 2 for each operator that computes."""
    runs = computing(flatbuffer.read(files[name]))
    interpreters = iter(range(1, len(runs) + 1))
    taken = {}

    def microseconds(interpreter, _):
        if id(interpreter) not in taken:
            taken[id(interpreter)] = 3 + 2 * next(interpreters), interpreter  # kept, so that no other has its id
        return taken[id(interpreter)][0]

    monkeypatch.setattr(operator_latency, "_microseconds", microseconds)
    told = []
    found = operator_latency.operator_latencies(files[name], "auto", None, 1, told.append)
    first = runs.index(True)
    computing_operators = len(runs) - first
    assert found["operators"] == [0.0] * first + [5.0] + [2.0] * (computing_operators - 1)
    assert found["whole"] == 3 + 2 * computing_operators
    assert told == sorted(told) and told[-1] == 1.0
    assert len(told) > 2 * 9 * computing_operators, "whoever waits hears of it in every turn"


def test_inspect_says_where_the_time_goes(files, tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes(files["int8"])
    assert all(operator.latency_us is None for operator in inspect(path).operators)
    inspection = inspect(path, latency=True, threads=2)
    times = [operator.latency_us for operator in inspection.operators]
    assert (inspection.timing.threads, inspection.timing.images) == (2, 1) and inspection.timing.whole_us > 0
    assert min(times) >= 0 and sum(times) > 0
    slowest = inspection.slowest(3)
    assert slowest[0].latency_us == max(times) and len(slowest) == 3
    console = Console(file=io.StringIO(), width=80)
    print_inspection(inspection, console)
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines())
    assert f"{slowest[0].title}: {slowest[0].latency_us:.1f} µs" in " ".join(text.split())
    assert [row["latency_us"] for row in inspection.to_json()["operators"]] == times


def test_a_batch_that_cannot_be_changed_is_named():
    inspection = inspect(TENSORFLOW / "four_at_once.tflite", latency=True)
    console = Console(file=io.StringIO(), width=80)
    print_inspection(inspection, console)
    assert inspection.timing.images == 4 and "ms for 4 images at once" in console.file.getvalue()


@pytest.mark.parametrize("threads, latency, said", [(0, True, "--threads 0"), (2, False, "add --latency")])
def test_threads_that_say_nothing_are_refused(files, threads, latency, said):
    with pytest.raises(UserError, match=said):
        inspect(TENSORFLOW / "float.tflite", latency=latency, threads=threads)


def test_a_file_that_leaves_its_size_open_is_timed_at_the_size_given(tmp_path):
    model = flatbuffer.read((TENSORFLOW / "float.tflite").read_bytes())
    entry = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    entry.shapeSignature = np.array([entry.shape[0], -1, -1, entry.shape[3]], np.int32)
    path = tmp_path / "open.tflite"
    path.write_bytes(flatbuffer.write(model))
    inspection = inspect(path, latency=True, feed=FeedOptions(input_size=int(entry.shape[1])))
    assert sum(operator.latency_us for operator in inspection.operators) > 0
