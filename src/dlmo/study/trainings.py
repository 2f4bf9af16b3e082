"""The stages that train: a network from scratch, or one already trained under a recipe's step."""

import json
from dataclasses import asdict
from pathlib import Path

from dlmo.atomic import write_atomically
from dlmo.errors import UserError
from dlmo.study.keys import VERSIONS, import_key, teacher_file_key, teacher_training, technique_key, train_key
from dlmo.study.recipe import Float32, FurtherTraining, Kd, Precision, Recipe
from dlmo.study.steps import work_of
from dlmo.study.store import Store, key_of
from dlmo.study.teaching import TeacherFile
from dlmo.study.workspace import (
    NetworkPlan,
    Trained,
    Workspace,
    build_network,
    load_network,
    made_for,
    read_curve,
    read_trained,
)
from dlmo.techniques.distillation.settings import LOSSES
from dlmo.training.curve import Epoch

_FLOAT32 = Float32()

# The state of an unfinished training, in its stage's folder.
_CHECKPOINT = "checkpoint.safetensors"
_DEVICES = "devices.json"


def train(workspace: Workspace, network: str, plan: NetworkPlan, seed: int, kd: Kd | None = None) -> Trained:
    """Train a network from scratch, under a teacher where `kd` names one; or take in the user's."""
    if workspace.is_own(network):
        return _import(workspace)

    def make(folder: Path) -> None:
        import torch

        torch.manual_seed(seed)
        fresh = build_network(workspace, network)
        _train_into(folder, workspace, network, fresh, None, None, plan, seed, kd, None)

    key = train_key(workspace, network, plan, seed, kd)
    return read_trained(key, workspace.store.stage("train", key, make), network)


def _import(workspace: Workspace) -> Trained:
    """The user's network as if it had been trained here."""
    own = workspace.own

    def make(folder: Path) -> None:
        sparsity = 0.0
        if own.module is not None:
            from dlmo.techniques.pruning import sparsity_of
            from dlmo.training import checkpoint

            checkpoint.save_weights(folder / "weights.safetensors", own.module, {})
            sparsity = sparsity_of(own.module)  # it may come pruned, and stays so
        record = {"network": own.name, "fake_quantized": False, "sparsity": sparsity, "epochs": 0, "seconds": 0.0}
        write_atomically(folder / "curve.json", b"[]")
        write_atomically(folder / "record.json", json.dumps(record).encode())

    key = import_key(workspace)
    return read_trained(key, workspace.store.stage("import", key, make), own.name)


def train_further(
    workspace: Workspace,
    parent: Trained,
    step: FurtherTraining,
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

    key = technique_key(workspace, parent.key, parent.network, step, plan, seed, kd, precision)
    return read_trained(key, workspace.store.stage("technique", key, make), parent.network)


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
    if kd.settings.get("standardize") and len(workspace.dataset.classes) == 2:
        raise UserError(
            "kd: standardize=true teaches nothing on two classes, as two standardized scores are always the same pair; "
            "leave it out"
        )
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


def check_steps(workspace: Workspace, recipe: Recipe) -> None:
    """Refuse, before any training, a limit that the recipe's network cannot be cut to, and a share that rounding
    undoes."""
    steps = [step for step in recipe.further_trainings if step.makes_smaller]
    if not steps:
        return
    network, widths_known = build_network(workspace, recipe.network).eval(), True
    for step in steps:
        network, widths_known = work_of(step).check(workspace, recipe, step, network, widths_known)


def _train_into(
    folder: Path,
    workspace: Workspace,
    name: str,
    network,
    parent: Trained | None,
    step: FurtherTraining | None,
    plan: NetworkPlan,
    seed: int,
    kd: Kd | None,
    precision: Precision | None,
) -> None:
    """Train and write weights, curve and record into `folder`; resumes from the checkpoint left there."""
    from dlmo.techniques.pruning import sparsity_of
    from dlmo.techniques.rounds import train_in_rounds
    from dlmo.techniques.technique import Chain
    from dlmo.training.device import best_device
    from dlmo.training.loop import train as run_training

    schedule = plan.schedule_of(step)
    state = folder / _CHECKPOINT
    technique = _technique(step, network, parent)
    taught, teacher, views = kd, None, None
    if kd is not None:
        teacher, views = _teacher(workspace, kd, name, step, plan, seed), kd.views_in(plan.train.epochs)
    elif step is not None and step.parent_teaches is not None:
        taught, teacher = step.parent_teaches, parent
        views = taught.views_in(schedule.epochs)
    used = _devices_used(folder) if schedule.epochs else []
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
        shrinking = None if step is None else work_of(step).shrinking(workspace, step, name, network, precision)
        if shrinking is None:
            training = fit(network, schedule, state, update)
        else:
            smaller, restored = shrinking.smaller, shrinking.restored
            training = train_in_rounds(network, smaller, restored, step.rounds, schedule, folder, fit, update)
    before = parent or teacher  # a parent's seconds hold its teacher's
    record = {
        "network": name,
        "fake_quantized": False,
        "sparsity": sparsity_of(training.network) if step else 0.0,
        "epochs": round(schedule.passes + (parent.epochs if parent else 0), 3),
        "seconds": sum(epoch.seconds for epoch in training.curve) + (before.seconds if before else 0.0),
        "shapes": parent.shapes if parent else {},
        "left_out": parent.left_out if parent else [],
        "devices": list(dict.fromkeys([*(parent.devices if parent else ()), *used])),
    }
    if step is not None:
        record |= work_of(step).record(workspace, training.network, network)
    if kd is not None and kd.scheme == "online" and step is None:
        peer = folder / "teacher"
        peer.mkdir(exist_ok=True)
        _write_network(peer, workspace, teaching.peer.to("cpu"), record | {"network": _peer_name(kd, name)})
    _write_network(folder, workspace, training.network, record)
    write_atomically(folder / "curve.json", json.dumps([asdict(epoch) for epoch in training.curve]).encode())
    for path in (state, *folder.glob("round-*")):
        path.unlink(missing_ok=True)
    (folder / _DEVICES).unlink(missing_ok=True)


def _devices_used(folder: Path) -> list[str]:
    """What trains here now, and what did before it was stopped; kept in `folder` until the training is done."""
    from dlmo.training.device import best_device

    path = folder / _DEVICES
    before = json.loads(path.read_bytes()) if path.exists() else []
    used = list(dict.fromkeys([*before, best_device().describe()]))
    write_atomically(path, json.dumps(used).encode())
    return used


def _technique(step: FurtherTraining | None, network, parent: Trained | None):
    from dlmo.techniques.pruning import KeepZeros
    from dlmo.techniques.technique import Chain, Technique

    technique = Technique() if step is None else work_of(step).technique(step, network)
    return Chain(technique, KeepZeros()) if parent and parent.sparsity else technique


def _write_network(folder: Path, workspace: Workspace, network, record: dict) -> None:
    """Weights, and the record that `Trained` is made of; the weights' file says besides what they are for."""
    from dlmo.training import checkpoint

    checkpoint.save_weights(folder / "weights.safetensors", network, record | made_for(workspace, record["network"]))
    write_atomically(folder / "record.json", json.dumps(record).encode())


def _teacher(
    workspace: Workspace, kd: Kd, student: str, step: FurtherTraining | None, plan: NetworkPlan, seed: int
) -> Trained | None:
    """The teacher of a step's training, trained if the store does not hold it; None where no stage makes it."""
    if kd.scheme == "online" and step is not None:
        # The peer has learned along with the student from scratch, and is a trained teacher now.
        return _peer(train(workspace, student, plan, seed, kd), _peer_name(kd, student))
    training = teacher_training(kd, student, seed)
    if training is None:
        return None
    name, own_seed, taught = training
    return train(workspace, name, plan.of_teacher(name), own_seed, taught)


def _teaching(
    workspace: Workspace,
    kd: Kd,
    student: str,
    step: FurtherTraining | None,
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
            "teacher": teacher_file_key(workspace, kd) if teacher is None else teacher.key,
            "dataset": workspace.dataset.fingerprint,
            "augmentation": asdict(workspace.augmentation),
            "view": view,
        }
        key = key_of("answers", VERSIONS["answers"], inputs)

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
    return TeacherFile(kd).load(
        workspace.dataset, lambda name: made_for(workspace, name), lambda name: build_network(workspace, name)
    )


def _peer(student: Trained, network: str) -> Trained:
    """The network that was trained together with a student."""
    return read_trained(f"{student.key}/teacher", student.folder / "teacher", network)


def _peer_name(kd: Kd, student: str) -> str:
    return student if kd.teacher == "self" else kd.teacher
