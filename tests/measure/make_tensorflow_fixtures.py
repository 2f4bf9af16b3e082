"""Makes the files in `tensorflow/`: one tiny digits classifier, written by TensorFlow's own converter in many ways.

TensorFlow is no dependency of dlmo, so this runs in a virtual environment of its own:

    python3 -m venv VENV
    VENV/bin/pip install tensorflow scikit-learn pillow
    VENV/bin/pip install --no-deps tflite-support
    PYTHONPATH=src VENV/bin/python tests/measure/make_tensorflow_fixtures.py

`expected.json` holds, per file, what TensorFlow's interpreter answered to dlmo's digits test images, and the options
`dlmo evaluate` needs for it. Inputs are made here, without dlmo's own preprocessing.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_lite_support.metadata.python.metadata_writers import image_classifier

from dlmo.data import Dataset, load

OUT = Path(__file__).parent / "tensorflow"
# The order of the classes in `own_order.tflite`.
SHUFFLED = "7402915386"
EPOCHS = 12


def trained(dataset: Dataset) -> tf.keras.Sequential:
    """A network of 4,000 parameters that takes pixel / 255 and ends with a softmax."""
    tf.keras.utils.set_random_seed(0)
    network = tf.keras.Sequential(
        [
            tf.keras.Input((16, 16, 1)),
            tf.keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
            tf.keras.layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            tf.keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu"),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(10),
        ]
    )
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=tf.keras.optimizers.Adam(5e-3), loss=loss, metrics=["accuracy"])
    network.fit(dataset.train.images / 255.0, dataset.train.labels, batch_size=32, epochs=EPOCHS, verbose=0)
    return network


def with_softmax(network: tf.keras.Sequential) -> tf.keras.Sequential:
    return tf.keras.Sequential([tf.keras.Input((16, 16, 1)), *network.layers, tf.keras.layers.Softmax()])


def channels_first(network: tf.keras.Sequential) -> tf.keras.Sequential:
    """The same network behind a transposition: takes 1 x 1 x 16 x 16 (NCHW)."""
    front = [tf.keras.Input((1, 16, 16), batch_size=1), tf.keras.layers.Permute((2, 3, 1))]
    return tf.keras.Sequential([*front, *network.layers])


def four_dimensional(network: tf.keras.Sequential) -> tf.keras.Sequential:
    """The same network with scores of shape 1 x 1 x 1 x 10."""
    return tf.keras.Sequential([tf.keras.Input((16, 16, 1)), *network.layers, tf.keras.layers.Reshape((1, 1, 10))])


def four_at_once(network: tf.keras.Sequential) -> tf.keras.Model:
    """The same network for 4 images in one run, and no other number."""
    *body, _, dense = network.layers
    features = images = tf.keras.Input((16, 16, 1), batch_size=4)
    for layer in body:
        features = layer(features)
    return tf.keras.Model(images, dense(tf.keras.ops.reshape(features, (4, 256))))


def reordered(network: tf.keras.Sequential) -> tf.keras.Sequential:
    """The same network with its classes in the order SHUFFLED, behind a background class that never wins."""
    *body, dense = network.layers
    weights, bias = dense.get_weights()
    order = [int(digit) for digit in SHUFFLED]
    last = tf.keras.layers.Dense(11)
    made = tf.keras.Sequential([tf.keras.Input((16, 16, 1)), *body, last])
    last.set_weights([np.c_[np.zeros(len(weights)), weights[:, order]], np.r_[-50.0, bias[order]]])
    return made


def converted(network, dataset: Dataset, kind: str = "float", io=tf.float32) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(network)
    if kind != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind in ("int8", "int16"):
        images = (dataset.train.images[:200] / 255.0).astype(np.float32)
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        operators = tf.lite.OpsSet
        int16 = operators.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        converter.target_spec.supported_ops = [int16 if kind == "int16" else operators.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = io
    return converter.convert()


def with_metadata(content: bytes, mean: float, std: float, labels: str) -> bytes:
    """Normalization and labels as TensorFlow Lite's metadata, the labels' file appended as a zip archive."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classes.txt"
        path.write_text("".join(f"{label}\n" for label in labels))
        create = image_classifier.MetadataWriter.create_for_inference
        return bytes(create(bytearray(content), [mean], [std], [str(path)]).populate())


def answers(content: bytes, dataset: Dataset, labels: str) -> str:
    """The digit that TensorFlow's interpreter gives each test image; `-` for the background class."""
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (image,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for pixels in dataset.test.images:
        value = pixels.astype(np.float32) / np.float32(255)
        if image["dtype"] is not np.float32:
            scale, zero_point = image["quantization"]
            limits = np.iinfo(image["dtype"])
            value = np.clip(np.round(value / np.float32(scale)) + zero_point, limits.min, limits.max)
        value = value.astype(image["dtype"]).reshape(image["shape"][1:])
        interpreter.set_tensor(image["index"], np.stack([value] * image["shape"][0]))
        interpreter.invoke()
        found.append(labels[interpreter.get_tensor(scores["index"])[0].reshape(-1).argmax()])
    return "".join(found)


def main() -> None:
    dataset = load("digits")
    network = trained(dataset)
    plain = converted(network, dataset)
    scale, own_order = {"scale": 255.0}, "-" + SHUFFLED
    files = {  # content, what `evaluate` must be told, labels
        "float": (plain, scale),
        "float_softmax": (converted(with_softmax(network), dataset), scale),
        "float16": (converted(network, dataset, "float16"), scale),
        "dynamic": (converted(network, dataset, "dynamic"), scale),
        "int8": (converted(network, dataset, "int8"), scale),
        "int8_io": (converted(network, dataset, "int8", tf.int8), scale),
        "uint8_io": (converted(network, dataset, "int8", tf.uint8), {}),
        "uint8_softmax": (converted(with_softmax(network), dataset, "int8", tf.uint8), {}),
        "int16_io": (converted(network, dataset, "int16", tf.int16), scale),
        "channels_first": (converted(channels_first(network), dataset), scale),
        "four_dimensional": (converted(four_dimensional(network), dataset), scale),
        "four_at_once": (converted(four_at_once(network), dataset), scale),
        "own_order": (converted(reordered(network), dataset), scale),
        "metadata": (with_metadata(converted(reordered(network), dataset), 0, 255, own_order), {}),
    }
    OUT.mkdir(exist_ok=True)
    expected = {}
    for name, (content, options) in files.items():
        labels = own_order if name in ("own_order", "metadata") else "".join(dataset.classes)
        found = answers(content, dataset, labels)
        right = sum(digit == dataset.classes[label] for digit, label in zip(found, dataset.test.labels))
        (OUT / f"{name}.tflite").write_bytes(content)
        expected[name] = {"options": options, "right": right, "images": len(found), "answers": found}
        print(f"{name:18}{len(content):7,} bytes  {right} of {len(found)} right")
    (OUT / "own_order.txt").write_text("".join(f"{label}\n" for label in own_order))
    document = {"tensorflow": tf.__version__, "files": expected}
    (OUT / "expected.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
