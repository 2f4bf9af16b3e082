"""OpenVINO: the float model and NNCF's int8, one thread, float32 arithmetic. Needs openvino and nncf."""

from pathlib import Path

import nncf
import numpy as np
import openvino
from common import Given, Loaded, serve
from openvino import opset13 as ops


def make(given: Given) -> dict[str, list[Path]]:
    plain = _model(given)
    samples = nncf.Dataset(list(given.calibration), lambda image: image.transpose(2, 0, 1)[None])
    quantized = nncf.quantize(plain, samples, subset_size=len(given.calibration))
    files = {}
    for name, model in (("openvino-float", plain), ("openvino-int8", quantized)):
        path = given.folder / f"{name}.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        files[name] = [path, path.with_suffix(".bin")]
    return files


def load(name: str, given: Given) -> Loaded:
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(given.folder / f"{name}.xml"), "CPU", settings)
    request = compiled.create_infer_request()

    def put(image: np.ndarray) -> None:
        request.get_input_tensor().data[0] = image.transpose(2, 0, 1)

    return Loaded(put, request.infer, lambda: request.get_output_tensor().data)


def _model(given: Given) -> openvino.Model:
    height, width, channels = given.image_shape
    image = ops.parameter([1, channels, height, width], np.float32, name="image")
    made = {"image": image}
    for layer in given.layers:
        inputs = [made[name] for name in layer["inputs"]]
        made[layer["name"]] = _operator(layer, inputs, given.weights)
    return openvino.Model([made[given.layers[-1]["name"]]], [image], "network")


def _operator(layer: dict, inputs: list, weights: dict[str, np.ndarray]):
    kind, name = layer["kind"], layer["name"]
    if kind == "conv":
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        groups, padding = layer["groups"], layer["padding"]
        if groups > 1:
            weight = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
        convolve = ops.group_convolution if groups > 1 else ops.convolution
        return ops.add(
            convolve(inputs[0], weight, layer["stride"], padding, padding, [1, 1]), bias[None, :, None, None]
        )
    if kind == "linear":
        product = ops.matmul(inputs[0], ops.constant(weights[f"{name}.weight"]), False, True)
        return ops.add(product, weights[f"{name}.bias"][None])
    if kind == "pool":
        return ops.reduce_mean(inputs[0], ops.constant([2, 3]), False)
    if kind == "relu6":
        return ops.clamp(inputs[0], 0.0, 6.0)
    return ops.relu(inputs[0]) if kind == "relu" else ops.add(*inputs)


if __name__ == "__main__":
    serve(make, load)
