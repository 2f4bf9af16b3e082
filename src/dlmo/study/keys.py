"""The keys of stages: the hash of everything that a stage's output depends on, known before anything runs."""

from dataclasses import asdict

from dlmo.study.recipe import FurtherTraining, Kd, Precision
from dlmo.study.steps import versions, work_of
from dlmo.study.store import key_of
from dlmo.study.teaching import TeacherFile
from dlmo.study.workspace import NetworkPlan, Workspace
from dlmo.training.schedule import Schedule

# Raise a number when the stage's code changes what it would produce, but for rounding: devices and their number formats
# are no part of a key either.
VERSIONS = {
    "train": 3,
    "import": 2,
    "technique": 3,
    "float": 3,
    "artifact": 8,
    "scores": 1,
    "speed": 1,
    "answers": 2,
    "kd": 2,
    "shallow": 2,
    **versions(),
}

_TEACHING_VERSIONS = {"version": VERSIONS["kd"], "answers": VERSIONS["answers"]}

# One teacher for all students and seeds: it is given, as the data are, not a part of what is repeated.
_TEACHER_SEED = 0


def import_key(workspace: Workspace) -> str:
    own = workspace.own
    inputs = {"network": own.name, "fingerprint": own.fingerprint, "input_shape": workspace.dataset.input_shape}
    return key_of("import", VERSIONS["import"], inputs)


def train_key(workspace: Workspace, network: str, plan: NetworkPlan, seed: int, kd: Kd | None) -> str:
    if workspace.is_own(network):
        return import_key(workspace)
    inputs = workspace.identity(network) | _training_inputs(workspace, plan.train, seed)
    return key_of("train", VERSIONS["train"], inputs | _kd_inputs(workspace, kd, network, plan, seed))


def technique_key(
    workspace: Workspace,
    parent: str,
    network: str,
    step: FurtherTraining,
    plan: NetworkPlan,
    seed: int,
    kd: Kd | None,
    precision: Precision,
) -> str:
    values = step.model_dump(exclude={"epochs", "teacher"})  # told by the schedule and by "kd"
    schedule = plan.schedule_of(step)
    inputs = {"parent": parent, "step": step.name, **values, **_training_inputs(workspace, schedule, seed)}
    inputs["stem"] = workspace.identity(network)["stem"]
    work = work_of(step)
    inputs |= (work.limits(workspace, step, network, precision) or {}) | work.versions_for(workspace, network)
    taught = step.parent_teaches
    if kd is None and taught is not None:
        inputs["kd"] = {"loss": taught.loss, "views": taught.views_in(schedule.epochs), **taught.settings}
        inputs["kd"] |= _TEACHING_VERSIONS
    return key_of("technique", VERSIONS["technique"], inputs | _kd_inputs(workspace, kd, network, plan, seed))


def _kd_inputs(workspace: Workspace, kd: Kd | None, network: str, plan: NetworkPlan, seed: int) -> dict:
    """What a training under a teacher depends on besides."""
    if kd is None:
        return {}
    teacher = teacher_training(kd, network, seed)
    if teacher is not None:
        name, own_seed, taught = teacher
        teacher_key = train_key(workspace, name, plan.of_teacher(name), own_seed, taught)
    else:
        teacher_key = teacher_file_key(workspace, kd) if kd.from_file else _untrained_teacher(workspace, kd)
    views = kd.views_in(plan.train.epochs)
    chosen = {"teacher": teacher_key, "loss": kd.loss, "scheme": kd.scheme, "views": views, **kd.settings}
    code = _TEACHING_VERSIONS | ({"shallow": VERSIONS["shallow"]} if kd.loss == "shallow" else {})
    return {"kd": chosen | code}


def teacher_file_key(workspace: Workspace, kd: Kd) -> str:
    """What stands for a teacher in a file; of weights, whose network is built here, with the stem it gets."""
    digest = TeacherFile(kd).identity
    return digest if kd.network is None else f"{digest} {workspace.identity(kd.network)['stem']}"


def _untrained_teacher(workspace: Workspace, kd: Kd) -> str | dict[str, str]:
    """What stands for a teacher that no stage makes: the network itself, or another that learns along."""
    return kd.teacher if kd.teacher == "self" else workspace.identity(kd.teacher)


def teacher_training(kd: Kd, student: str, seed: int) -> tuple[str, int, Kd | None] | None:
    """The training from scratch that makes the teacher: network, seed, its own teacher. None where there is none."""
    if kd.born_again:
        before = kd.model_copy(update={"generations": kd.generations - 1}) if kd.generations > 1 else None
        return student, seed, before
    if kd.from_file or kd.scheme == "online" or kd.loss == "shallow":
        return None
    return kd.teacher, _TEACHER_SEED, None


def _training_inputs(workspace: Workspace, schedule: Schedule, seed: int) -> dict:
    return {
        "dataset": workspace.dataset.fingerprint,
        "schedule": asdict(schedule),
        "augmentation": asdict(workspace.augmentation),
        "class_weights": workspace.class_weights,
        "seed": seed,
    }
