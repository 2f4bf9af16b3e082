"""The stages a recipe is made of: train, train further under a technique, convert, predict.

Each is a function from its inputs to a folder in the store; the key holds everything the output depends on.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dlmo.data.dataset import Dataset, Split
from dlmo.runtimes.litert.flatbuffer import write_atomically
from dlmo.study.recipe import Int8, Precision, Prune, Qat, Recipe, Step
from dlmo.study.store import Store, key_of
from dlmo.training.curve import Epoch
from dlmo.training.schedule import Augmentation, Schedule

# Raise a number when the stage's code changes what it would produce.
_VERSIONS = {"train": 1, "technique": 1, "float": 1, "artifact": 1, "scores": 1}


class Progress(Protocol):
    """Shows long work; `stage` gives a function that takes the share done, 0 to 1."""

    def stage(self, title: str) -> AbstractContextManager[Callable[[float], None]]: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class NetworkPlan:
    """How one network is trained: from scratch, while it is pruned, and quantization-aware."""

    train: Schedule
    prune: Schedule
    qat: Schedule

    def schedule_of(self, step: Step) -> Schedule:
        schedule = self.prune if isinstance(step, Prune) else self.qat
        return schedule if step.epochs is None else schedule.lasting(step.epochs)


@dataclass(frozen=True)
class Workspace:
    """What all stages of one study share."""

    dataset: Dataset
    store: Store
    augmentation: Augmentation
    class_weights: tuple[float, ...] | None
    stem: str
    progress: Progress


@dataclass(frozen=True)
class Trained:
    """A finished training stage.

    epochs and seconds count the whole way from scratch to here.
    """

    key: str
    folder: Path
    network: str
    fake_quantized: bool
    sparsity: float
    epochs: int
    seconds: float

    def curve(self) -> tuple[Epoch, ...]:
        return tuple(Epoch(**line) for line in json.loads((self.folder / "curve.json").read_text()))


@dataclass(frozen=True)
class Artifact:
    """A finished .tflite file."""

    key: str
    path: Path
    trained: Trained

    def content(self) -> bytes:
        return self.path.read_bytes()


def make_artifact(workspace: Workspace, recipe: Recipe, plan: NetworkPlan, seed: int) -> Artifact:
    """Run every stage of a recipe that the store does not hold yet."""
    trained = train(workspace, recipe.network, plan.train, seed)
    for step in recipe.steps[:-1]:
        trained = train_further(workspace, trained, step, plan.schedule_of(step), seed)
    return convert(workspace, trained, recipe.precision, seed)


def train(workspace: Workspace, network: str, schedule: Schedule, seed: int) -> Trained:
    """Train a network from scratch."""
    inputs = {"network": network, **_training_inputs(workspace, schedule, seed)}
    key = key_of("train", _VERSIONS["train"], inputs)

    def make(folder: Path) -> None:
        import torch

        torch.manual_seed(seed)
        fresh = build_network(workspace, network)
        title = f"train {network}: {schedule.epochs} epochs"
        _train_into(folder, workspace, fresh, schedule, seed, title, None, network, None)

    return _read_trained(key, workspace.store.stage("train", key, make))


def train_further(workspace: Workspace, parent: Trained, step: Step, schedule: Schedule, seed: int) -> Trained:
    """Train an already trained network under a step's technique."""
    values = step.model_dump(exclude={"epochs"})
    inputs = {"parent": parent.key, "step": step.name, **values, **_training_inputs(workspace, schedule, seed)}
    key = key_of("technique", _VERSIONS["technique"], inputs)

    def make(folder: Path) -> None:
        network = load_network(workspace, parent)
        title = f"{step.name} {parent.network}: {schedule.epochs} epochs"
        technique = _technique(step, parent)
        _train_into(folder, workspace, network, schedule, seed, title, technique, parent.network, parent, step)

    return _read_trained(key, workspace.store.stage("technique", key, make))


def convert(workspace: Workspace, trained: Trained, precision: Precision, seed: int) -> Artifact:
    """Turn a trained network into a .tflite file of the given precision."""
    from dlmo.study.conversion import artifact_content, float_content

    float_key = key_of("float", _VERSIONS["float"], {"trained": trained.key})

    def make_float(folder: Path) -> None:
        with workspace.progress.stage(f"convert {trained.network}"):
            content = float_content(load_network(workspace, trained), workspace.dataset, trained.fake_quantized)
        write_atomically(folder / "model.tflite", content)

    values = precision.model_dump()
    if isinstance(precision, Int8) and not trained.fake_quantized:
        values |= {"dataset": workspace.dataset.fingerprint, "seed": seed}
    key = key_of("artifact", _VERSIONS["artifact"], {"float": float_key, "precision": precision.name, **values})

    def make(folder: Path) -> None:
        source = workspace.store.stage("float", float_key, make_float) / "model.tflite"
        with workspace.progress.stage(f"{precision.name} {trained.network}"):
            content = artifact_content(
                source.read_bytes(),
                precision,
                workspace.dataset,
                seed,
                fake_quantized=trained.fake_quantized,
                pruned=trained.sparsity > 0,
            )
        write_atomically(folder / "model.tflite", content)

    return Artifact(key, workspace.store.stage("artifact", key, make) / "model.tflite", trained)


def scores(workspace: Workspace, content: bytes, split_name: str) -> np.ndarray:
    """The file's scores on a split (`validation` or `test`), float32 N x classes, by the real runtime."""
    from dlmo.measure.latency import machine
    from dlmo.runtimes.litert.interpreter import predict

    split: Split = getattr(workspace.dataset, split_name)
    inputs = {
        "content": hashlib.blake2b(content, digest_size=16).hexdigest(),
        "dataset": workspace.dataset.fingerprint,
        "split": split_name,
        # Kernels differ between processors by a rounding now and then.
        "machine": machine(),
    }
    key = key_of("scores", _VERSIONS["scores"], inputs)

    def make(folder: Path) -> None:
        with open(folder / "scores.npy", "wb") as file:
            np.save(file, predict(content, split.images))

    return np.load(workspace.store.stage("scores", key, make) / "scores.npy")


def load_network(workspace: Workspace, trained: Trained):
    """The trained torch network, in evaluation mode."""
    from dlmo.techniques.fake_quantization import insert_fake_quantization
    from dlmo.training import checkpoint

    network = build_network(workspace, trained.network)
    if trained.fake_quantized:
        network = insert_fake_quantization(network)
    checkpoint.load_weights(trained.folder / "weights.safetensors", network)
    return network.eval()


def build_network(workspace: Workspace, network: str):
    from dlmo import networks

    dataset = workspace.dataset
    return networks.build(
        network, classes=len(dataset.classes), input_shape=dataset.input_shape, stem=workspace.stem
    )


def _technique(step: Step, parent: Trained):
    from dlmo.techniques.fake_quantization import QuantizationAwareTraining
    from dlmo.techniques.pruning import GradualMagnitudePruning, KeepZeros
    from dlmo.techniques.technique import Chain

    if isinstance(step, Prune):
        return GradualMagnitudePruning(step.sparsity, step.rounds)
    if isinstance(step, Qat):
        return Chain(QuantizationAwareTraining(), KeepZeros()) if parent.sparsity else QuantizationAwareTraining()
    raise TypeError(f"{step.name} trains nothing")


def _training_inputs(workspace: Workspace, schedule: Schedule, seed: int) -> dict:
    return {
        "dataset": workspace.dataset.fingerprint,
        "schedule": asdict(schedule),
        "augmentation": asdict(workspace.augmentation),
        "class_weights": workspace.class_weights,
        "stem": workspace.stem,
        "seed": seed,
    }


def _train_into(
    folder: Path,
    workspace: Workspace,
    network,
    schedule: Schedule,
    seed: int,
    title: str,
    technique,
    name: str,
    parent: Trained | None,
    step: Step | None = None,
) -> None:
    """Train and write weights, curve and record into `folder`; resumes from the checkpoint left there."""
    from dlmo.techniques.pruning import sparsity_of
    from dlmo.training import checkpoint
    from dlmo.training.device import best_device
    from dlmo.training.loop import train as run_training

    state = folder / "checkpoint.safetensors"
    with workspace.progress.stage(title) as update:
        training = run_training(
            network,
            workspace.dataset.train,
            workspace.dataset.validation,
            schedule,
            workspace.augmentation,
            best_device(),
            seed,
            technique=technique,
            class_weights=workspace.class_weights,
            checkpoint_path=state,
            progress=update,
        )
    fake_quantized = isinstance(step, Qat)
    record = {
        "network": name,
        "fake_quantized": fake_quantized,
        "sparsity": sparsity_of(training.network) if step is not None else 0.0,
        "epochs": schedule.epochs + (parent.epochs if parent else 0),
        "seconds": sum(epoch.seconds for epoch in training.curve) + (parent.seconds if parent else 0.0),
    }
    checkpoint.save_weights(folder / "weights.safetensors", training.network, record)
    write_atomically(folder / "curve.json", json.dumps([asdict(epoch) for epoch in training.curve]).encode())
    write_atomically(folder / "record.json", json.dumps(record).encode())
    state.unlink(missing_ok=True)


def _read_trained(key: str, folder: Path) -> Trained:
    return Trained(key, folder, **json.loads((folder / "record.json").read_text()))


