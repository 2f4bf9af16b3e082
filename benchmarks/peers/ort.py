"""ONNX Runtime: the float model and its static int8 (QDQ, per channel), one thread. Needs onnxruntime and onnx."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from common import Given, Loaded, serve
from onnxruntime import quantization


def make(given: Given) -> dict[str, list[Path]]:
    plain, quantized = _path("onnxruntime-float", given), _path("onnxruntime-int8", given)
    onnx.save(_model(given), plain)
    quantization.quantize_static(plain, quantized, _Calibration(given), per_channel=True)
    return {"onnxruntime-float": [plain], "onnxruntime-int8": [quantized]}


def load(name: str, given: Given) -> Loaded:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_path(name, given), options, providers=["CPUExecutionProvider"])

    bound = session.io_binding()
    bound.bind_output(session.get_outputs()[0].name)

    def put(image: np.ndarray) -> None:
        bound.bind_cpu_input("image", np.ascontiguousarray(image.transpose(2, 0, 1)[None]))

    return Loaded(put, lambda: session.run_with_iobinding(bound), lambda: bound.copy_outputs_to_cpu()[0])


def _path(name: str, given: Given) -> Path:
    return given.folder / f"{name}.onnx"


def _model(given: Given) -> onnx.ModelProto:
    make_node, nodes = onnx.helper.make_node, []
    kinds = {"relu": "Relu", "relu6": "Clip", "add": "Add", "pool": "GlobalAveragePool"}
    for layer in given.layers:
        name, kind, inputs = layer["name"], layer["kind"], layer["inputs"]
        if kind == "conv":
            (top, left), strides = layer["padding"], layer["stride"]
            sizes = {"pads": [top, left, top, left], "strides": strides, "group": layer["groups"]}
            nodes.append(make_node("Conv", [*inputs, f"{name}.weight", f"{name}.bias"], [name], **sizes))
        elif kind == "linear":
            nodes.append(make_node("Flatten", inputs, [f"{name}.flat"]))
            weights = [f"{name}.flat", f"{name}.weight", f"{name}.bias"]
            nodes.append(make_node("Gemm", weights, [name], transB=1))
        else:
            nodes.append(make_node(kinds[kind], [*inputs, *(["zero", "six"] if kind == "relu6" else [])], [name]))
    constants = given.weights | {"zero": np.float32(0), "six": np.float32(6)}
    height, width, channels = given.image_shape
    last = given.layers[-1]["name"]
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [onnx.helper.make_tensor_value_info("image", floats, [1, channels, height, width])],
        [onnx.helper.make_tensor_value_info(last, floats, [1, len(given.weights[f"{last}.bias"])])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self, given: Given) -> None:
        self._images = iter(given.calibration)

    def get_next(self) -> dict | None:
        image = next(self._images, None)
        return None if image is None else {"image": np.ascontiguousarray(image.transpose(2, 0, 1)[None])}


if __name__ == "__main__":
    serve(make, load)
