import pytest
from ai_edge_litert.schema_py_generated import TensorType

from dlmo.errors import UserError
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner
from dlmo.runtimes.litert.quantize import static_int8
from dlmo.study import int8_repair, mixed
from dlmo.study.int8_repair import Judge
from dlmo.study.mixed import check_size, mixed_file
from dlmo.study.recipe import Mixed, parse
from dlmo.study.stages import make_artifact
from dlmo.study.workspace import NetworkPlan
from dlmo.training.schedule import Schedule

ONE_EPOCH = Schedule(1, 32, 0.05, 0.1)
PLAN = NetworkPlan(ONE_EPOCH, ONE_EPOCH, ONE_EPOCH, ONE_EPOCH)


def weight_types(content: bytes) -> set[int]:
    model = flatbuffer.read(content)
    stored = [tensor for tensor in model.subgraphs[0].tensors if flatbuffer.buffer_bytes(model, tensor.buffer)]
    return {tensor.type for tensor in stored if len(tensor.shape) >= 2}


def test_a_size_is_kept_with_weights_of_4_bits(balanced, digits):
    judge, calibration = Judge(balanced, digits), digits.train.images[:50]
    plain = static_int8(balanced, calibration)
    limit = len(flatbuffer.shorten_names(plain)) - 100
    file, repair = mixed_file(balanced, Mixed(size=limit), digits, calibration, judge)
    assert len(flatbuffer.shorten_names(file)) <= limit
    assert {TensorType.INT4, TensorType.INT8} <= weight_types(file)
    assert Runner(file).delegation() == (1, 1.0)
    assert Runner(file).input["dtype"].__name__ == "int8"
    assert repair.rung == "4-bit weights in 1 layers" and repair.rung in repair.words()
    with pytest.raises(UserError, match="still takes"):
        mixed_file(balanced, Mixed(size=1000), digits, calibration, judge)


def test_a_size_that_int8_keeps_changes_nothing(workspace):
    plain, mixed = (
        make_artifact(workspace, parse(f"resnet8@0.5 > {step}"), PLAN, 0) for step in ("int8", "mixed(1MB)")
    )
    assert mixed.content() == plain.content()


def test_a_drop_is_used_up_to_make_the_file_smaller(balanced, digits):
    judge, calibration = Judge(balanced, digits), digits.train.images[:50]
    plain = static_int8(balanced, calibration)
    file, repair = mixed_file(balanced, Mixed(drop=0.5), digits, calibration, judge)
    assert judge.lost(file) <= 0.5 and len(file) < len(plain)
    assert TensorType.INT4 in weight_types(file)
    assert list(repair.lost) == ["int8, min/max ranges", repair.rung]


def test_what_int8_breaks_stays_in_float(lopsided, digits, monkeypatch):
    plain_ranges = {"min/max ranges": int8_repair.RUNGS["min/max ranges"]}
    monkeypatch.setattr(int8_repair, "RUNGS", plain_ranges)
    monkeypatch.setattr(mixed, "RUNGS", plain_ranges)
    monkeypatch.setattr(mixed, "_FLOAT_WORK", 1.0)  # int8 breaks this network almost everywhere
    judge = Judge(lopsided, digits)
    file, repair = mixed_file(lopsided, Mixed(drop=0.01), digits, digits.train.images[:100], judge)
    assert judge.lost(file) <= 0.01 < 0.05 < repair.lost["int8, min/max ranges"]
    assert "in float" in repair.rung
    assert TensorType.FLOAT16 in weight_types(file)


def test_a_size_out_of_reach_is_refused_before_any_training(workspace):
    check_size(workspace, parse("resnet8@0.5 > mixed(1MB)"))
    with pytest.raises(UserError, match="mixed\\(size=5000\\): with 4-bit weights in .* layers the file still takes"):
        check_size(workspace, parse("resnet8@0.5 > mixed(5KB)"))
