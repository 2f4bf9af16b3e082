"""The stages that train: a network from scratch, or one already trained under a recipe's step."""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from dlmo.atomic import write_atomically
from dlmo.errors import UserError
from dlmo.progress import Update
from dlmo.study.keys import VERSIONS, import_key, teacher_file_key, teacher_training, technique_key, train_key
from dlmo.study.recipe import Float32, Kd, Precision, Prune, PruneBlocks, PruneChannels, Qat, Recipe, Step
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
from dlmo.training.schedule import Schedule

_FLOAT32 = Float32()
# Images that show whether an untrained network can be made smaller; what they say of its weights decides nothing.
_CHECKED_IMAGES = 64

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


def check_cutting(workspace: Workspace, recipe: Recipe) -> None:
    """Refuse, before any training, a limit that the recipe's network cannot be cut to, and a share that rounding
    undoes. Of a ranking over all layers only training tells the widths."""
    steps = [step for step in recipe.further_trainings if isinstance(step, PruneChannels | PruneBlocks)]
    if not steps:
        return
    network, widths_known = build_network(workspace, recipe.network).eval(), True
    for step in steps:
        if isinstance(step, PruneBlocks):
            _check_blocks(workspace, recipe, step, network, widths_known)
            continue
        if step.limited or step.scope == "layer":
            network = _checked_cut(workspace, recipe, step, network)
        widths_known = step.scope == "layer"


def _check_blocks(workspace: Workspace, recipe: Recipe, step: PruneBlocks, network, widths_known: bool) -> None:
    """network: as the steps before leave it, which where they rank channels over all layers is another after training:
    then the blocks have another share of what is left."""
    from dlmo.techniques.block_pruning import Depth, leave_out, left_out_of

    depth = Depth(step.ratio, step.macs) if widths_known or step.macs is None else Depth(1.0, None)
    smaller = leave_out(network, network, depth, workspace.dataset.train.spread(1))
    if not left_out_of(smaller, network, workspace.dataset.input_shape):
        raise UserError(f'"{step}" leaves out no block of {recipe.network}; give a larger share')


def _checked_cut(workspace: Workspace, recipe: Recipe, step: PruneChannels, network):
    """The network, whose weights say nothing, cut."""
    from dlmo.study.cutting import target_of
    from dlmo.techniques.channel_pruning import cut, shapes_of

    target = target_of(workspace, step, recipe.network, network, recipe.precision)
    smaller = cut(network, network, target, workspace.dataset.train.spread(_CHECKED_IMAGES))
    if not step.limited and not shapes_of(smaller, network):
        raise UserError(
            f'"{step}" cuts nothing of {recipe.network}: widths stay multiples of round_to={step.round_to} (in '
            "narrow layers of half or a quarter of that); give a larger share, or a smaller round_to"
        )
    return smaller


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
        if isinstance(step, PruneChannels | PruneBlocks):
            training = _in_rounds(folder, workspace, name, network, step, schedule, precision, fit, update)
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
        "left_out": parent.left_out if parent else [],
        "devices": list(dict.fromkeys([*(parent.devices if parent else ()), *used])),
    }
    if isinstance(step, PruneChannels):
        from dlmo.techniques.channel_pruning import shapes_of

        record["shapes"] = shapes_of(training.network, network)
    if isinstance(step, PruneBlocks):
        from dlmo.techniques.block_pruning import left_out_of

        record["left_out"] = left_out_of(training.network, network, workspace.dataset.input_shape)
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


def _technique(step: Step | None, network, parent: Trained | None):
    from dlmo.networks.counting import parameters_of
    from dlmo.techniques.fake_quantization import QuantizationAwareTraining
    from dlmo.techniques.pruning import GradualMagnitudePruning, KeepZeros
    from dlmo.techniques.technique import Chain, Technique

    technique = Technique()
    if isinstance(step, Prune):
        technique = GradualMagnitudePruning(step.share_of(parameters_of(network)), step.rounds)
    if isinstance(step, Qat):
        technique = QuantizationAwareTraining()
    return Chain(technique, KeepZeros()) if parent and parent.sparsity else technique


def _in_rounds(
    folder: Path,
    workspace: Workspace,
    name: str,
    network,
    step: PruneChannels | PruneBlocks,
    schedule: Schedule,
    precision: Precision,
    fit,
    update: Update,
):
    """Train while channels or blocks go."""
    from dlmo.techniques.rounds import train_in_rounds

    images = workspace.dataset.train
    if isinstance(step, PruneChannels):
        from dlmo.study.cutting import target_of
        from dlmo.techniques import channel_pruning

        target = target_of(workspace, step, name, network, precision)
        smaller = partial(channel_pruning.cut, original=network, target=target, images=images)
        restore = partial(channel_pruning.restored, original=network)
    else:
        from dlmo.techniques import block_pruning

        depth = block_pruning.Depth(step.ratio, step.macs)
        smaller = partial(block_pruning.leave_out, original=network, depth=depth, images=images)
        restore = partial(block_pruning.restored, original=network, input_shape=workspace.dataset.input_shape)
    return train_in_rounds(network, smaller, restore, step.rounds, schedule, folder, fit, update)


def _write_network(folder: Path, workspace: Workspace, network, record: dict) -> None:
    """Weights, and the record that `Trained` is made of; the weights' file says besides what they are for."""
    from dlmo.training import checkpoint

    checkpoint.save_weights(folder / "weights.safetensors", network, record | made_for(workspace, record["network"]))
    write_atomically(folder / "record.json", json.dumps(record).encode())


def _teacher(
    workspace: Workspace, kd: Kd, student: str, step: Step | None, plan: NetworkPlan, seed: int
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
