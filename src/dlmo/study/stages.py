"""The stages a recipe is made of: train, train further under a technique, convert, predict.

Each is a function from its inputs to a folder in the store; the key holds everything the output depends on.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from dlmo.atomic import write_atomically
from dlmo.data.dataset import Dataset, Split
from dlmo.measure.targets import Target
from dlmo.measure.targets.host import Host
from dlmo.networks.own import OwnNetwork
from dlmo.networks.registry import parse
from dlmo.networks.stems import choose
from dlmo.progress import Progress, Update
from dlmo.study.recipe import Float32, Int8, Kd, Mixed, Precision, Prune, PruneChannels, Qat, Recipe, Step
from dlmo.study.results import Repair
from dlmo.study.store import Store, key_of
from dlmo.study.teaching import TeacherFile
from dlmo.techniques.distillation.settings import LOSSES
from dlmo.training.curve import Epoch
from dlmo.training.schedule import PROGRESSIVE_COST, Augmentation, Schedule

# Raise a number when the stage's code changes what it would produce.
_VERSIONS = {"train": 3, "import": 1, "technique": 3, "float": 2, "artifact": 5, "scores": 1, "answers": 2, "kd": 2}

_GOLDEN_IMAGES = 32
# One teacher for all students and seeds: it is given, as the data are, not a part of what is repeated.
_TEACHER_SEED = 0
_FLOAT32 = Float32()
# Images that show whether an untrained network can be cut; only criteria that look at gradients use them.
_CHECKED_IMAGES = 64

# The state of an unfinished training, in its stage's folder.
_CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class NetworkPlan:
    """How one network is trained: from scratch, while it is pruned, quantization-aware, and while channels are cut.

    epoch_seconds, qat_epoch_seconds: what an epoch at full image size should take, for the time left that is shown;
    teacher_seconds: the same of plain training of each teacher.
    """

    train: Schedule
    prune: Schedule
    qat: Schedule
    cut: Schedule
    epoch_seconds: float = 0.0
    qat_epoch_seconds: float = 0.0
    teacher_seconds: Mapping[str, float] = field(default_factory=dict)

    def schedule_of(self, step: Step | None) -> Schedule:
        """The schedule of a step; None is training from scratch."""
        if step is None:
            return self.train
        schedule = {Prune: self.prune, PruneChannels: self.cut, Qat: self.qat}[type(step)]
        return schedule if step.epochs is None else schedule.lasting(step.epochs)

    def seconds_of(self, step: Step | None, kd: Kd | None = None) -> float:
        """What a step's training should take, under the teacher of `kd` if there is one."""
        schedule = self.schedule_of(step)
        epoch = self.qat_epoch_seconds if isinstance(step, Qat) else self.epoch_seconds
        resized = PROGRESSIVE_COST if schedule.progressive else 1.0
        seconds = epoch * schedule.passes * resized
        if kd is None and step is not None and step.parent_teaches is not None:
            return seconds + epoch / 3 * step.parent_teaches.views_in(schedule.epochs)
        if kd is None or kd.loss == "shallow":
            return seconds
        teacher = self.teacher_seconds.get(kd.teacher, self.epoch_seconds)
        if kd.scheme == "online" and step is None:
            return seconds + teacher * schedule.passes * resized
        # Answering is the forward third of a training step. Fixed views are answered once, at full size.
        views = kd.views_in(self.train.epochs)
        answered = schedule.passes * resized if views is None else min(views, schedule.epochs) * (step is None)
        return seconds + teacher / 3 * answered

    def teacher_training_seconds(self, teacher: str) -> float:
        """What training a teacher from scratch should take."""
        return replace(self, epoch_seconds=self.teacher_seconds.get(teacher, self.epoch_seconds)).seconds_of(None)


@dataclass(frozen=True)
class Workspace:
    """What all stages of one study share. own: the user's network, which takes the place of one trained here.
    more_targets: further ones to measure on, by the names the user gave them. stem: of networks whose name holds none.
    """

    dataset: Dataset
    store: Store
    augmentation: Augmentation
    class_weights: tuple[float, ...] | None
    stem: str
    progress: Progress
    target: Target = Host()
    own: OwnNetwork | None = None
    more_targets: Mapping[str, Target] = field(default_factory=dict)

    def identity(self, network: str) -> dict[str, str]:
        """What tells a network's shape, for keys: two spellings of one shape share what is trained."""
        if self.is_own(network):
            return {"network": network, "stem": self.stem}
        parsed = parse(network)
        return {"network": parsed.plain, "stem": choose(parsed.stem or self.stem, self.dataset.input_shape)}

    @property
    def golden(self) -> np.ndarray:
        """Images on which a target's answers are compared with this machine's, uint8 N x H x W x C."""
        return self.dataset.validation.spread(_GOLDEN_IMAGES).images

    def is_own(self, network: str) -> bool:
        return self.own is not None and network == self.own.name


@dataclass(frozen=True)
class Trained:
    """A finished training stage.

    epochs and seconds count the whole way from scratch to here. shapes: of the parameters and buffers that
    channel pruning made smaller, by name.
    """

    key: str
    folder: Path
    network: str
    fake_quantized: bool
    sparsity: float
    epochs: float
    seconds: float
    shapes: dict[str, list[int]] = field(default_factory=dict)

    def curve(self) -> tuple[Epoch, ...]:
        return read_curve(self.folder)


@dataclass(frozen=True)
class Artifact:
    """A finished .tflite file."""

    key: str
    path: Path
    trained: Trained

    def repair(self) -> Repair | None:
        """What an int8 file quantized after training needed to keep its accuracy."""
        record = json.loads((self.path.parent / "repair.json").read_text())
        return Repair(**record) if record else None

    def content(self) -> bytes:
        return self.path.read_bytes()


def make_artifact(workspace: Workspace, recipe: Recipe, plan: NetworkPlan, seed: int) -> Artifact:
    """Run every stage of a recipe that the store does not hold yet."""
    return convert(workspace, make_trained(workspace, recipe, plan, seed), recipe.precision, seed)


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
    """Each training of a recipe, its teacher's too, in order, without running anything."""
    network, kd = recipe.network, recipe.kd
    found: list[Expected] = []

    def make(steps: Sequence[Step]) -> Callable[[Workspace], Trained]:
        return partial(train_through, recipe=recipe, steps=steps, plan=plan, seed=seed)

    if workspace.is_own(network):
        key = _train_key(workspace, network, plan, seed, kd)
        found.append(Expected("import", key, 0.0, network, seed, make(())))
    else:
        taught = kd
        while taught is not None and (teacher := _teacher_training(taught, network, seed)) is not None:
            name, own_seed, taught = teacher
            seconds = plan.seconds_of(None, taught) if name == network else plan.teacher_training_seconds(name)
            key = _train_key(workspace, name, plan, own_seed, taught)
            trained = partial(train, network=name, plan=plan, seed=own_seed, kd=taught)
            found.insert(0, Expected("train", key, seconds, _name(name, taught), own_seed, trained))
        key = _train_key(workspace, network, plan, seed, kd)
        seconds = plan.seconds_of(None, kd)
        found.append(Expected("train", key, seconds, _name(network, kd), seed, make(())))
    steps = recipe.further_trainings
    for count, step in enumerate(steps, 1):
        key = _technique_key(workspace, key, network, step, plan, seed, kd, recipe.precision)
        name = _name(network, kd, *steps[:count])
        found.append(Expected("technique", key, plan.seconds_of(step, kd), name, seed, make(steps[:count])))
    return found


def _name(network: str, *steps: Step | None) -> str:
    return " > ".join([network, *(str(step) for step in steps if step is not None)])


def read_curve(folder: Path) -> tuple[Epoch, ...]:
    """The curve of a finished training stage."""
    return tuple(Epoch(**line) for line in json.loads((folder / "curve.json").read_text()))


def curve_so_far(store: Store, stage: str, key: str) -> tuple[Epoch, ...]:
    """The curve of a training stage, finished or not; of an unfinished one up to its last checkpoint."""
    from dlmo.training import checkpoint

    done = store.finished(stage, key)
    if done is not None:
        return read_curve(done)
    try:
        record = checkpoint.load_record(store.unfinished(stage, key) / _CHECKPOINT)
    except FileNotFoundError:  # not begun, or finished at this very moment
        return ()
    return tuple(Epoch(**line) for line in record["curve"])


def check_teaching(workspace: Workspace, recipe: Recipe) -> None:
    """Refuse, before any training, a teacher that cannot teach the recipe's network on these data."""
    kd = recipe.kd
    if kd is None:
        return
    import torch

    from dlmo.study.teaching import check_maps

    def build(name: str):
        with torch.device("meta"):
            return build_network(workspace, name)

    teacher = None
    if kd.from_file:
        teacher = _teacher_network(workspace, kd).to("meta")
    elif kd.loss != "shallow":
        teacher = build(_peer_name(kd, recipe.network))
    check_maps(kd, build(recipe.network), teacher, workspace.dataset.input_shape)


def check_cutting(workspace: Workspace, recipe: Recipe) -> None:
    """Refuse, before any training, a limit that the recipe's network cannot be cut to."""
    for step in recipe.further_trainings:
        if isinstance(step, PruneChannels) and step.limited:
            from dlmo.study.cutting import target_of
            from dlmo.techniques.channel_pruning import cut

            network = build_network(workspace, recipe.network).eval()
            target = target_of(workspace, step, recipe.network, network, recipe.precision)
            cut(network, network, target, workspace.dataset.train.spread(_CHECKED_IMAGES))


def train(workspace: Workspace, network: str, plan: NetworkPlan, seed: int, kd: Kd | None = None) -> Trained:
    """Train a network from scratch, under a teacher where `kd` names one; or take in the user's."""
    if workspace.is_own(network):
        return _import(workspace)

    def make(folder: Path) -> None:
        import torch

        torch.manual_seed(seed)
        fresh = build_network(workspace, network)
        _train_into(folder, workspace, network, fresh, None, None, plan, seed, kd, None)

    key = _train_key(workspace, network, plan, seed, kd)
    return _read_trained(key, workspace.store.stage("train", key, make), network)


def _import(workspace: Workspace) -> Trained:
    """The user's network as if it had been trained here."""
    own = workspace.own

    def make(folder: Path) -> None:
        if own.module is not None:
            from dlmo.training import checkpoint

            checkpoint.save_weights(folder / "weights.safetensors", own.module, {})
        record = {"network": own.name, "fake_quantized": False, "sparsity": 0.0, "epochs": 0, "seconds": 0.0}
        write_atomically(folder / "curve.json", b"[]")
        write_atomically(folder / "record.json", json.dumps(record).encode())

    key = _import_key(workspace)
    return _read_trained(key, workspace.store.stage("import", key, make), own.name)


def train_further(
    workspace: Workspace,
    parent: Trained,
    step: Step,
    plan: NetworkPlan,
    seed: int,
    kd: Kd | None = None,
    precision: Precision = _FLOAT32,
) -> Trained:
    """Train an already trained network under a step's technique, and under the teacher it had.

    precision: of the recipe's file, whose size or latency may be the step's limit.
    """

    def make(folder: Path) -> None:
        network = load_network(workspace, parent)
        _train_into(folder, workspace, parent.network, network, parent, step, plan, seed, kd, precision)

    key = _technique_key(workspace, parent.key, parent.network, step, plan, seed, kd, precision)
    return _read_trained(key, workspace.store.stage("technique", key, make), parent.network)


def _import_key(workspace: Workspace) -> str:
    own = workspace.own
    inputs = {"network": own.name, "fingerprint": own.fingerprint, "input_shape": workspace.dataset.input_shape}
    return key_of("import", _VERSIONS["import"], inputs)


def _train_key(workspace: Workspace, network: str, plan: NetworkPlan, seed: int, kd: Kd | None) -> str:
    if workspace.is_own(network):
        return _import_key(workspace)
    inputs = workspace.identity(network) | _training_inputs(workspace, plan.train, seed)
    return key_of("train", _VERSIONS["train"], inputs | _kd_inputs(workspace, kd, network, plan, seed))


def _technique_key(
    workspace: Workspace,
    parent: str,
    network: str,
    step: Step,
    plan: NetworkPlan,
    seed: int,
    kd: Kd | None,
    precision: Precision,
) -> str:
    values = step.model_dump(exclude={"epochs", "teacher"})  # told by the schedule and by "kd"
    schedule = plan.schedule_of(step)
    inputs = {"parent": parent, "step": step.name, **values, **_training_inputs(workspace, schedule, seed)}
    inputs["stem"] = workspace.identity(network)["stem"]
    if isinstance(step, PruneChannels):
        from dlmo.study.cutting import key_inputs

        inputs |= key_inputs(workspace, step, network, precision)
    taught = step.parent_teaches
    if kd is None and taught is not None:
        inputs["kd"] = {"loss": taught.loss, "views": taught.views_in(schedule.epochs), **taught.settings}
    return key_of("technique", _VERSIONS["technique"], inputs | _kd_inputs(workspace, kd, network, plan, seed))


def _kd_inputs(workspace: Workspace, kd: Kd | None, network: str, plan: NetworkPlan, seed: int) -> dict:
    """What a training under a teacher depends on besides."""
    if kd is None:
        return {}
    teacher = _teacher_training(kd, network, seed)
    if teacher is not None:
        name, own_seed, taught = teacher
        teacher_key = _train_key(workspace, name, plan, own_seed, taught)
    else:
        teacher_key = TeacherFile(kd.teacher).digest if kd.from_file else kd.teacher
    views = kd.views_in(plan.train.epochs)
    chosen = {"teacher": teacher_key, "loss": kd.loss, "scheme": kd.scheme, "views": views, **kd.settings}
    return {"kd": chosen | {"version": _VERSIONS["kd"]}}


def _teacher_training(kd: Kd, student: str, seed: int) -> tuple[str, int, Kd | None] | None:
    """The training from scratch that makes the teacher: network, seed, its own teacher. None where there is none."""
    if kd.born_again:
        before = kd.model_copy(update={"generations": kd.generations - 1}) if kd.generations > 1 else None
        return student, seed, before
    if kd.from_file or kd.scheme == "online" or kd.loss == "shallow":
        return None
    return kd.teacher, _TEACHER_SEED, None


def _teacher(
    workspace: Workspace, kd: Kd, student: str, step: Step | None, plan: NetworkPlan, seed: int
) -> Trained | None:
    """The teacher of a step's training, trained if the store does not hold it; None where no stage makes it."""
    if kd.scheme == "online" and step is not None:
        # The peer has learned along with the student from scratch, and is a trained teacher now.
        return _peer(train(workspace, student, plan, seed, kd), _peer_name(kd, student))
    training = _teacher_training(kd, student, seed)
    if training is None:
        return None
    name, own_seed, taught = training
    return train(workspace, name, plan, own_seed, taught)


def convert(workspace: Workspace, trained: Trained, precision: Precision, seed: int) -> Artifact:
    """Turn a trained network into a .tflite file of the given precision."""
    values = precision.model_dump()
    integers = isinstance(precision, Int8 | Mixed)
    if integers and not trained.fake_quantized:
        values |= {"dataset": workspace.dataset.fingerprint, "seed": seed}
    key = key_of("artifact", _VERSIONS["artifact"], {"trained": trained.key, "precision": precision.name, **values})

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
                pruned=trained.sparsity > 0,
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

    key = key_of("float", _VERSIONS["float"], {"trained": trained.key, "integer_form": rewritten})
    return (workspace.store.stage("float", key, make) / "model.tflite").read_bytes()


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
    key = key_of("scores", _VERSIONS["scores"], inputs)
    return np.load(workspace.store.stage("scores", key, make) / "scores.npy")


def load_network(workspace: Workspace, trained: Trained):
    """The trained torch network, in evaluation mode."""
    from dlmo.techniques.fake_quantization import insert_fake_quantization
    from dlmo.training import checkpoint

    network = build_network(workspace, trained.network)
    if trained.shapes:
        from dlmo.techniques.channel_pruning import with_shapes

        network = with_shapes(network, trained.shapes)
    if trained.fake_quantized:
        network = insert_fake_quantization(network)
    checkpoint.load_weights(trained.folder / "weights.safetensors", network)
    return network.eval()


def build_network(workspace: Workspace, network: str):
    """The network before any training here; the user's own with its weights."""
    from dlmo import networks

    if workspace.is_own(network):
        return copy.deepcopy(workspace.own.module)
    dataset = workspace.dataset
    return networks.build(network, classes=len(dataset.classes), input_shape=dataset.input_shape, stem=workspace.stem)


def _technique(step: Step | None, parent: Trained | None):
    from dlmo.techniques.fake_quantization import QuantizationAwareTraining
    from dlmo.techniques.pruning import GradualMagnitudePruning, KeepZeros
    from dlmo.techniques.technique import Chain, Technique

    if isinstance(step, Prune):
        return GradualMagnitudePruning(step.sparsity, step.rounds)
    if isinstance(step, Qat):
        return Chain(QuantizationAwareTraining(), KeepZeros()) if parent.sparsity else QuantizationAwareTraining()
    return Technique()


def _teaching(
    workspace: Workspace,
    kd: Kd,
    student: str,
    step: Step | None,
    teacher: Trained | None,
    views: int | None,
    seed: int,
):
    """The technique of learning from a teacher, over so many fixed views of each image."""
    import torch

    from dlmo.study.teaching import technique_for
    from dlmo.techniques.distillation.offline import answers_to_view
    from dlmo.training import checkpoint
    from dlmo.training.device import best_device

    def answers(ask, view: int):
        inputs = {
            "asked": "logits" if LOSSES[kd.loss].knowledge == "response" else "last map",
            "teacher": TeacherFile(kd.teacher).digest if teacher is None else teacher.key,
            "dataset": workspace.dataset.fingerprint,
            "augmentation": asdict(workspace.augmentation),
            "view": view,
        }
        key = key_of("answers", _VERSIONS["answers"], inputs)

        def make(folder: Path) -> None:
            given = answers_to_view(ask, best_device(), workspace.dataset.train, workspace.augmentation, view)
            checkpoint.save(folder / "answers.safetensors", {"answers": given}, inputs)

        return checkpoint.load(workspace.store.stage("answers", key, make) / "answers.safetensors")[0]["answers"]

    network = None
    untrained = kd.scheme == "online" and teacher is None
    if teacher is not None:
        network = load_network(workspace, teacher)
    elif untrained:
        torch.manual_seed(seed + 1)  # other initial weights than the student's
        network = build_network(workspace, _peer_name(kd, student))
    elif kd.from_file:
        network = _teacher_network(workspace, kd)
    return technique_for(
        kd,
        network,
        untrained=untrained,
        from_scratch=step is None,
        views=views,
        answers=answers,
        classes=len(workspace.dataset.classes),
        input_shape=workspace.dataset.input_shape,
    )


def _teacher_network(workspace: Workspace, kd: Kd):
    """The network in a teacher's file."""
    file = TeacherFile(kd.teacher)
    if file.exported:
        return file.graph(workspace.dataset)
    return file.load(lambda name: _made_for(workspace, name), lambda name: build_network(workspace, name))


def _peer(student: Trained, network: str) -> Trained:
    """The network that was trained together with a student."""
    return _read_trained(f"{student.key}/teacher", student.folder / "teacher", network)


def _peer_name(kd: Kd, student: str) -> str:
    return student if kd.teacher == "self" else kd.teacher


def _made_for(workspace: Workspace, network: str) -> dict:
    """What a network's weights can be used for; written into their file."""
    dataset, stem = workspace.dataset, workspace.identity(network)["stem"]
    return {"classes": list(dataset.classes), "input_shape": list(dataset.input_shape), "stem": stem}


def _training_inputs(workspace: Workspace, schedule: Schedule, seed: int) -> dict:
    return {
        "dataset": workspace.dataset.fingerprint,
        "schedule": asdict(schedule),
        "augmentation": asdict(workspace.augmentation),
        "class_weights": workspace.class_weights,
        "seed": seed,
    }


def _train_into(
    folder: Path,
    workspace: Workspace,
    name: str,
    network,
    parent: Trained | None,
    step: Step | None,
    plan: NetworkPlan,
    seed: int,
    kd: Kd | None,
    precision: Precision | None,
) -> None:
    """Train and write weights, curve and record into `folder`; resumes from the checkpoint left there."""
    from dlmo.techniques.pruning import sparsity_of
    from dlmo.techniques.technique import Chain
    from dlmo.training.device import best_device
    from dlmo.training.loop import train as run_training

    schedule = plan.schedule_of(step)
    state = folder / _CHECKPOINT
    technique = _technique(step, parent)
    taught, teacher, views = kd, None, None
    if kd is not None:
        teacher, views = _teacher(workspace, kd, name, step, plan, seed), kd.views_in(plan.train.epochs)
    elif step is not None and step.parent_teaches is not None:
        taught, teacher = step.parent_teaches, parent
        views = taught.views_in(schedule.epochs)
    title = f"{step.name if step else 'train'} {name}{' with a teacher' if taught else ''}: {schedule.words}"
    if taught is not None:
        # Last: its taps belong on the network as the technique before it leaves it.
        teaching = _teaching(workspace, taught, name, step, teacher, views, seed)
        technique = Chain(technique, teaching)

    def fit(network, schedule, state, progress):
        return run_training(
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
            progress=progress,
        )

    with workspace.progress.stage(title, plan.seconds_of(step, kd)) as update:
        if isinstance(step, PruneChannels):
            training = _cut_channels(folder, workspace, name, network, step, schedule, precision, fit, update)
        else:
            training = fit(network, schedule, state, update)
    before = parent or teacher  # a parent's seconds hold its teacher's
    record = {
        "network": name,
        "fake_quantized": isinstance(step, Qat),
        "sparsity": sparsity_of(training.network) if step else 0.0,
        "epochs": round(schedule.passes + (parent.epochs if parent else 0), 3),
        "seconds": sum(epoch.seconds for epoch in training.curve) + (before.seconds if before else 0.0),
        "shapes": parent.shapes if parent else {},
    }
    if isinstance(step, PruneChannels):
        from dlmo.techniques.channel_pruning import shapes_of

        record["shapes"] = shapes_of(training.network, network)
    if kd is not None and kd.scheme == "online" and step is None:
        peer = folder / "teacher"
        peer.mkdir(exist_ok=True)
        _write_network(peer, workspace, teaching.peer.to("cpu"), record | {"network": _peer_name(kd, name)})
    _write_network(folder, workspace, training.network, record)
    write_atomically(folder / "curve.json", json.dumps([asdict(epoch) for epoch in training.curve]).encode())
    state.unlink(missing_ok=True)


def _cut_channels(
    folder: Path,
    workspace: Workspace,
    name: str,
    network,
    step: PruneChannels,
    schedule: Schedule,
    precision: Precision,
    fit,
    update: Update,
):
    from dlmo.study.cutting import target_of
    from dlmo.techniques.channel_pruning import train_in_rounds

    target = target_of(workspace, step, name, network, precision)
    return train_in_rounds(network, target, step.rounds, workspace.dataset.train, schedule, folder, fit, update)


def _write_network(folder: Path, workspace: Workspace, network, record: dict) -> None:
    """Weights, and the record that `Trained` is made of; the weights' file says besides what they are for."""
    from dlmo.training import checkpoint

    checkpoint.save_weights(folder / "weights.safetensors", network, record | _made_for(workspace, record["network"]))
    write_atomically(folder / "record.json", json.dumps(record).encode())


def _read_trained(key: str, folder: Path, network: str) -> Trained:
    """network: how it is called where it was asked for."""
    return Trained(key, folder, **json.loads((folder / "record.json").read_text()) | {"network": network})
