"""From a recipe to its file and what that answers, stage by stage: train, train further, convert, predict.

Each is a function from its inputs to a folder in the store; `keys.py` tells what its key holds.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from dlmo.atomic import write_atomically
from dlmo.data.dataset import Split
from dlmo.study.keys import VERSIONS, teacher_training, technique_key, train_key
from dlmo.study.recipe import Int8, Mixed, Precision, Prune, Recipe, Step
from dlmo.study.store import key_of
from dlmo.study.trainings import train, train_further
from dlmo.study.workspace import Artifact, NetworkPlan, Trained, Workspace, load_network


def make_artifact(workspace: Workspace, recipe: Recipe, plan: NetworkPlan, seed: int) -> Artifact:
    """Run every stage of a recipe that the store does not hold yet."""
    pruned = any(isinstance(step, Prune) for step in recipe.steps)
    return convert(workspace, make_trained(workspace, recipe, plan, seed), recipe.precision, seed, pruned=pruned)


def make_trained(workspace: Workspace, recipe: Recipe, plan: NetworkPlan, seed: int) -> Trained:
    """Run every training stage of a recipe that the store does not hold yet."""
    return train_through(workspace, recipe, recipe.further_trainings, plan, seed)


def make_scores(workspace: Workspace, recipe: Recipe, plan: NetworkPlan, seed: int) -> None:
    """Run every stage of a recipe, its file's scores on validation and test images too."""
    content = make_artifact(workspace, recipe, plan, seed).content()
    for split_name in ("validation", "test"):
        scores(workspace, content, split_name, str(recipe))


def train_through(workspace: Workspace, recipe: Recipe, steps: Sequence[Step], plan: NetworkPlan, seed: int) -> Trained:
    """Train a recipe's network from scratch and then under `steps`, the first of its further ones."""
    trained = train(workspace, recipe.network, plan, seed, recipe.kd)
    for step in steps:
        trained = train_further(workspace, trained, step, plan, seed, recipe.kd, recipe.precision)
    return trained


@dataclass(frozen=True)
class Expected:
    """A training that a recipe needs: its stage, its key, and the seconds it should take.

    name: network and steps so far, as in `resnet20 > prune(0.9)`. make: trains it in a workspace, after what comes
    before it, unless the store holds it.
    """

    stage: str
    key: str
    seconds: float
    name: str
    seed: int
    make: Callable[[Workspace], Trained]


def trainings_of(workspace: Workspace, recipe: Recipe, plan: NetworkPlan, seed: int) -> list[Expected]:
    """Each training of a recipe, its teacher's too, in order, without running anything.

    A teacher that the store does not hold is left out where it has nobody left to teach.
    """
    network, kd = recipe.network, recipe.kd
    found: list[Expected] = []

    def make(steps: Sequence[Step]) -> Callable[[Workspace], Trained]:
        return partial(train_through, recipe=recipe, steps=steps, plan=plan, seed=seed)

    if workspace.is_own(network):
        key = train_key(workspace, network, plan, seed, kd)
        found.append(Expected("import", key, 0.0, network, seed, make(())))
    else:
        its_kd = kd
        while its_kd is not None and (teacher := teacher_training(its_kd, network, seed)) is not None:
            name, own_seed, its_kd = teacher
            its_plan = plan.of_teacher(name)
            seconds = its_plan.seconds_of(None, its_kd)
            key = train_key(workspace, name, its_plan, own_seed, its_kd)
            trained = partial(train, network=name, plan=its_plan, seed=own_seed, kd=its_kd)
            found.insert(0, Expected("train", key, seconds, _name(name, its_kd), own_seed, trained))
        key = train_key(workspace, network, plan, seed, kd)
        seconds = plan.seconds_of(None, kd)
        found.append(Expected("train", key, seconds, _name(network, kd), seed, make(())))
    teachers, taught = found[:-1], found[-1:]
    steps = recipe.further_trainings
    for count, step in enumerate(steps, 1):
        key = technique_key(workspace, key, network, step, plan, seed, kd, recipe.precision)
        name = _name(network, kd, *steps[:count])
        taught.append(Expected("technique", key, plan.seconds_of(step, kd), name, seed, make(steps[:count])))

    return _still_teaching(workspace, teachers, taught) + taught


def _still_teaching(workspace: Workspace, teachers: Sequence[Expected], taught: Sequence[Expected]) -> list[Expected]:
    """Of teachers, each taught by the one before it, those that the store holds or somebody has to learn from."""
    if not teachers:
        return []
    kept: list[Expected] = []
    has = workspace.store.has
    learning = not all(has(training.stage, training.key) for training in taught)
    for teacher in reversed(teachers):
        made = has(teacher.stage, teacher.key)
        if made or learning:
            kept.insert(0, teacher)
        learning = learning and not made
    return kept


def _name(network: str, *steps: Step | None) -> str:
    return " > ".join([network, *(str(step) for step in steps if step is not None)])


def convert(workspace: Workspace, trained: Trained, precision: Precision, seed: int, *, pruned: bool) -> Artifact:
    """Turn a trained network into a .tflite file of the given precision.

    pruned: by its recipe, so that zeros are stored sparse. A user's network may come with zeros and be meant for a
    target that cannot read such a file.
    """
    values = precision.model_dump()
    integers = isinstance(precision, Int8 | Mixed)
    if integers and not trained.fake_quantized:
        values |= {"dataset": workspace.dataset.fingerprint, "seed": seed}
    key = key_of("artifact", VERSIONS["artifact"], {"trained": trained.key, "precision": precision.name, **values})

    def make(folder: Path) -> None:
        from dlmo.study.conversion import artifact_content

        source = _float_content(workspace, trained, integers)
        with workspace.progress.stage(f"{precision.name} {trained.network}"):
            content, repair = artifact_content(
                source,
                precision,
                workspace.dataset,
                seed,
                fake_quantized=trained.fake_quantized,
                pruned=pruned,
            )
        write_atomically(folder / "repair.json", json.dumps(asdict(repair) if repair else None).encode())
        write_atomically(folder / "model.tflite", content)

    return Artifact(key, workspace.store.stage("artifact", key, make) / "model.tflite", trained)


def _float_content(workspace: Workspace, trained: Trained, for_int8: bool) -> bytes:
    """The converter's file of a trained network; for int8 with operators that have int8 kernels."""
    from dlmo.techniques.integer_form import integer_form, needs_integer_form

    if workspace.is_own(trained.network) and workspace.own.tflite is not None:
        return workspace.own.tflite
    network = load_network(workspace, trained)
    rewritten = for_int8 and needs_integer_form(network)

    def make(folder: Path) -> None:
        from dlmo.study.conversion import float_content

        with workspace.progress.stage(f"convert {trained.network}"):
            prepared = integer_form(network) if rewritten else network
            content = float_content(prepared, workspace.dataset, trained.fake_quantized)
        write_atomically(folder / "model.tflite", content)

    key = key_of("float", VERSIONS["float"], {"trained": trained.key, "integer_form": rewritten})
    return (workspace.store.stage("float", key, make) / "model.tflite").read_bytes()


def many_seconds(workspace: Workspace, content: bytes) -> tuple[float, float]:
    """What many test images take the file on this machine, with one thread and with all; measured once."""

    def make(folder: Path) -> None:
        from dlmo.measure.speed import seconds_for_many

        found = seconds_for_many(content, workspace.dataset.test.images)
        write_atomically(folder / "seconds.json", json.dumps(found).encode())

    inputs = {
        "content": hashlib.blake2b(content, digest_size=16).hexdigest(),
        "dataset": workspace.dataset.fingerprint,
        "machine": workspace.target.identity(),
    }
    folder = workspace.store.stage("speed", key_of("speed", VERSIONS["speed"], inputs), make)
    one, every = json.loads((folder / "seconds.json").read_text())
    return one, every


def scores(workspace: Workspace, content: bytes, split_name: str, name: str) -> np.ndarray:
    """The file's scores on a split (`validation` or `test`), float32 N x classes, by the target's real runtime.

    name: what the progress shall call the file.
    """
    split: Split = getattr(workspace.dataset, split_name)

    def make(folder: Path) -> None:
        from dlmo.runtimes.litert import flatbuffer

        expected = workspace.target.seconds_to_predict(len(split), flatbuffer.facts(content).macs)
        with workspace.progress.stage(f"run {name} on the {split_name} images", expected) as update:
            found = workspace.target.predict(content, split.images, update)
        with open(folder / "scores.npy", "wb") as file:
            np.save(file, found)

    inputs = {
        "content": hashlib.blake2b(content, digest_size=16).hexdigest(),
        "dataset": workspace.dataset.fingerprint,
        "split": split_name,
        "machine": workspace.target.identity(),
    }
    key = key_of("scores", VERSIONS["scores"], inputs)
    return np.load(workspace.store.stage("scores", key, make) / "scores.npy")
