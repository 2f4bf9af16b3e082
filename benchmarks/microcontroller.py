"""Agreement of LiteRT and TensorFlow Lite Micro on the same int8 files, and what arena they need.

    python benchmarks/microcontroller.py SOURCE [--images 1000] [--epochs 4] [--network NAME]...

Trains each network with `dlmo study` (stages are kept in the store), then runs its int8 file under both runtimes
on the first test images. Two runtimes agree on an image when their top class is the same. LiteRT runs with its
usual kernels (XNNPACK) and with its reference kernels, which TensorFlow Lite Micro shares: a gap between these two
columns is rounding in XNNPACK, and shrinks with the accuracy of the network.
"""

import argparse
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from dlmo import networks
from dlmo.data import load
from dlmo.measure.accuracy import accuracy
from dlmo.report.progress import TerminalProgress
from dlmo.runtimes.litert import interpreter as litert
from dlmo.runtimes.tflm import interpreter as tflm
from dlmo.strategy.plan import augmentation_for, class_weights_for, schedules
from dlmo.study.recipe import parse
from dlmo.study.stages import make_artifact
from dlmo.study.store import open_store
from dlmo.study.workspace import Workspace

NETWORKS = ("resnet20", "mobilenet_v1", "mobilenet_v2@0.5", "wide_resnet_16_1")


def reference_answers(content: bytes, images: np.ndarray) -> np.ndarray:
    """Top classes by LiteRT's reference kernels, int N."""
    interpreter = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    answers = []
    for image in litert.Runner(content).prepare(images):
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(sink).argmax())
    return np.array(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--network", action="append", default=[])
    arguments = parser.parse_args()
    data = load(arguments.source)
    weights = class_weights_for(data)
    workspace = Workspace(data, open_store(), augmentation_for(data), weights, "auto", TerminalProgress())
    plan = schedules(len(data.train), min(data.input_shape[:2]), arguments.epochs)
    part = data.test.spread(arguments.images)
    images, labels = part.images, part.labels
    print(f"{data.name}: {len(data.train):,} training images, {arguments.epochs} epochs, {len(images):,} test images")
    print("network                  KB  agree %  (ref.)  LiteRT %  TFLM %  head KB  persistent KB     ms")
    for name in arguments.network or NETWORKS:
        recipe = parse(f"{networks.canonical(name)} > int8")
        content = make_artifact(workspace, recipe, plan, seed=0).content()
        ours = litert.predict(content, images)
        started = time.perf_counter()
        micro = tflm.predict(content, images)
        milliseconds = 1000 * (time.perf_counter() - started) / len(images)
        arena = tflm.arena(content)
        agree = (ours.argmax(1) == micro.argmax(1)).mean()
        same = (reference_answers(content, images) == micro.argmax(1)).mean()
        print(
            f"{name:20}{len(content) / 1000:7.1f}{100 * agree:9.1f}{100 * same:8.1f}"
            f"{100 * accuracy(ours, labels).value:10.1f}{100 * accuracy(micro, labels).value:8.1f}"
            f"{arena.head / 1000:9.1f}{arena.persistent / 1000:15.1f}"
            f"{milliseconds:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
