"""TensorFlow's converter: float, dynamic int8 and full int8 .tflite files, run by its own interpreter in one thread."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from common import Given, Loaded, serve


def make(given: Given) -> dict[str, list[Path]]:
    height, width, channels = given.image_shape

    @tf.function(input_signature=[tf.TensorSpec([1, height, width, channels], tf.float32)])
    def network(image):
        made = {"image": image}
        for layer in given.layers:
            made[layer["name"]] = _operator(layer, [made[name] for name in layer["inputs"]], given.weights)
        return made[given.layers[-1]["name"]]

    files = {}
    for name in ("tensorflow-float", "tensorflow-dynamic", "tensorflow-int8"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
        if name != "tensorflow-float":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "tensorflow-int8":
            converter.representative_dataset = lambda: ([image[None]] for image in given.calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        path = given.folder / f"{name}.tflite"
        path.write_bytes(converter.convert())
        files[name] = [path]
    return files


def load(name: str, given: Given) -> Loaded:
    interpreter = tf.lite.Interpreter(str(given.folder / f"{name}.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = source["quantization"]

    def put(image: np.ndarray) -> None:
        if source["dtype"] == np.int8:
            image = np.clip(np.round(image / scale) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], image[None])

    return Loaded(put, interpreter.invoke, lambda: interpreter.get_tensor(sink["index"]))


def _operator(layer: dict, inputs: list, weights: dict[str, np.ndarray]):
    kind, name = layer["kind"], layer["name"]
    if kind == "conv":
        weight, (top, left) = weights[f"{name}.weight"], layer["padding"]
        strides = [1, *layer["stride"], 1]
        image, padding = inputs[0], "SAME"
        if layer["stride"] != [1, 1]:  # TensorFlow's SAME pads on the far side alone
            image, padding = tf.pad(image, [[0, 0], [top, top], [left, left], [0, 0]]), "VALID"
        if layer["groups"] > 1:
            found = tf.nn.depthwise_conv2d(image, weight.transpose(2, 3, 0, 1), strides, padding)
        else:
            found = tf.nn.conv2d(image, weight.transpose(2, 3, 1, 0), strides, padding)
        return found + weights[f"{name}.bias"]
    if kind == "linear":
        return tf.matmul(inputs[0], weights[f"{name}.weight"].T) + weights[f"{name}.bias"]
    if kind == "pool":
        return tf.reduce_mean(inputs[0], [1, 2])
    return {"relu": tf.nn.relu, "relu6": tf.nn.relu6, "add": tf.add}[kind](*inputs)


if __name__ == "__main__":
    serve(make, load)
