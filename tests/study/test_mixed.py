import pytest
from ai_edge_litert.schema_py_generated import TensorType

from dlmo.errors import UserError
from dlmo.progress import SilentProgress
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.study import int8_repair, mixed
from dlmo.study.conversion import float_content
from dlmo.study.int8_repair import Judge
from dlmo.study.mixed import mixed_file
from dlmo.study.recipe import Mixed, parse
from dlmo.study.stages import NetworkPlan, Workspace, load_network, make_artifact, train
from dlmo.study.store import Store
from dlmo.training.schedule import Augmentation, Schedule

ONE_EPOCH = Schedule(1, 32, 0.05, 0.1)
PLAN = NetworkPlan(ONE_EPOCH, ONE_EPOCH, ONE_EPOCH, ONE_EPOCH)


def weight_types(content: bytes) -> set[int]:
    model = flatbuffer.read(content)
    stored = [tensor for tensor in model.subgraphs[0].tensors if flatbuffer.buffer_bytes(model, tensor.buffer)]
    return {tensor.type for tensor in stored if len(tensor.shape) >= 2}


@pytest.fixture(scope="module")
def content(digits, shared_store) -> bytes:
    plain = Augmentation(flip=False, shift=1, cutout=0, lighting=0.0)
    workspace = Workspace(digits, Store(shared_store), plain, None, "auto", SilentProgress())
    network = load_network(workspace, train(workspace, "mobilenet_v1@0.25", PLAN, 0))
    return float_content(network, digits, False)


def test_a_size_is_kept_with_weights_of_4_bits(workspace):
    plain = make_artifact(workspace, parse("mobilenet_v1@0.25 > int8"), PLAN, 0).content()
    limit = int(0.75 * len(plain))
    artifact = make_artifact(workspace, parse(f"mobilenet_v1@0.25 > mixed(size={limit})"), PLAN, 0)
    content = artifact.content()
    assert len(content) <= limit
    assert {TensorType.INT4, TensorType.INT8} <= weight_types(content)
    assert Runner(content).delegation() == (1, 1.0)
    assert Runner(content).input["dtype"].__name__ == "int8"
    assert "4-bit weights in" in artifact.repair().words()


def test_a_size_that_int8_keeps_changes_nothing(workspace):
    plain = make_artifact(workspace, parse("mobilenet_v1@0.25 > int8"), PLAN, 0).content()
    assert make_artifact(workspace, parse("mobilenet_v1@0.25 > mixed(1MB)"), PLAN, 0).content() == plain


def test_a_size_out_of_reach_is_refused(digits, content):
    with pytest.raises(UserError, match="still takes"):
        mixed_file(content, Mixed(size=5000), digits, digits.train.images[:50], Judge(content, digits))


def test_a_drop_is_used_up_to_make_the_file_smaller(digits, content):
    judge = Judge(content, digits)
    sizes = {}
    for drop in (0.02, 0.3):
        file, _ = mixed_file(content, Mixed(drop=drop), digits, digits.train.images[:50], judge)
        assert judge.lost(file) <= drop
        sizes[drop] = len(file)
    plain = len(int8_repair.RUNGS["min/max ranges"](content, digits.train.images[:50]))
    assert sizes[0.3] <= sizes[0.02] <= plain and sizes[0.3] < plain


def test_what_int8_breaks_stays_in_float(lopsided, digits, monkeypatch):
    plain_ranges = {"min/max ranges": int8_repair.RUNGS["min/max ranges"]}
    monkeypatch.setattr(int8_repair, "RUNGS", plain_ranges)
    monkeypatch.setattr(mixed, "RUNGS", plain_ranges)
    monkeypatch.setattr(mixed, "_FLOAT_WORK", 1.0)  # int8 breaks this network almost everywhere
    judge = Judge(lopsided, digits)
    file, repair = mixed_file(lopsided, Mixed(drop=0.01), digits, digits.train.images[:100], judge)
    assert judge.lost(file) <= 0.01 < 0.05 < repair.lost["int8, min/max ranges"]
    assert "in float" in repair.rung
    assert flatbuffer.facts(file).float_operators
