"""Planning: which networks to try and how long to train each, so that the work fits the time."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from dlmo.atomic import write_atomically
from dlmo.data.dataset import Dataset
from dlmo.errors import PASSING, UserError
from dlmo.study.recipe import STEPS, Float32, FurtherTraining, Kd, Qat, Recipe
from dlmo.study.stages import Expected, trainings_of
from dlmo.study.store import key_of
from dlmo.study.workspace import NetworkPlan, Workspace
from dlmo.training.schedule import Augmentation, Schedule

# Tried when the user names no network, in this order, as many as the time allows to train properly. The same for
# every service: a service changes what is chosen, so that asking for another one trains nothing anew.
_SMALL_NETWORKS = ("resnet8", "resnet8@0.5")
_LARGER_NETWORKS = ("resnet20@0.5", "resnet20")
_IMAGES_FOR_LARGER = 5_000
# Share of the time that is planned; the rest is for what the probe got wrong.
PLANNED_SHARE = 0.95
# Converting (once per training), quantizing and measuring a file; running it on images is the target's to say.
_SECONDS_PER_FILE = 5.0
# A probe lasts this share of the time there is: processors are often faster for a few seconds than for minutes.
_PROBE_SHARE, _SHORTEST_PROBE, _LONGEST_PROBE = 0.004, 2.0, 15.0  # of the time, seconds, seconds
# What quantization-aware training costs against plain training, where it was not timed.
QAT_COST = 2.0
_LEAST_PROBE_STEPS, _PROBE_BATCHES, _PROBE_VALIDATION_IMAGES = 4, 40, 64
# On a GPU, where the first ones only prepare and record what all others replay.
_LEAST_PROBE_STEPS_OF_GPU = 16
# What even the longest probe does not see: in trainings of half an hour and more, epochs of ResNet-20 at full size took
# 1.13 times as long as its probe had told, and quantization-aware ones 1.11 times.
_SLOWER_IN_THE_LONG_RUN, _LONG_RUN = 0.13, 1800.0  # share; seconds
# Of the epochs from scratch. With 0.15 of them, 88 % zeros cost the networks of docs/study.md up to 6.7 points
# on CIFAR-100.
_PRUNE_SHARE, _QAT_SHARE, _CUT_SHARE = 0.3, 0.06, 0.4
# Cutting takes steps, not epochs: with fewer than this a small set's networks lose what they knew.
_CUT_STEPS = 750
# Quantization-aware training takes an epoch, where that is not more than this share of the epochs from scratch.
_LARGEST_QAT_SHARE = 0.1
# Below this many steps a training does nothing; three epochs of it may be less.
_FEWEST_STEPS = 100
# What is tried where the time is too short for a whole epoch.
_PARTS_OF_AN_EPOCH = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1)
# Smaller images first, where the last fifth of the steps is enough to settle the statistics: with 8 epochs, or so many
# steps in each.
_SMALLEST_PROGRESSIVE_SIDE, _STEPS_OF_LARGE_SETS = 28, 300
VERSION = 15
# Schedules shorter than this share of a full one are said to be short.
_NEARLY_FULL = 0.9


class TooShort(UserError):
    """The time is too short for any training."""


@dataclass(frozen=True)
class Plan:
    """Networks with their schedules. epochs: what these are made for, from scratch. device: what trains, in words."""

    networks: dict[str, NetworkPlan]
    epochs: float
    device: str
    notes: tuple[str, ...]


def default_networks(images: int, searching: bool = False) -> tuple[str, ...]:
    """Candidates for so many training images; few images cannot fill a larger network. A search needs one network to
    begin with and finds its own: further setups would take its time just where they begin to fit."""
    if searching:
        return _SMALL_NETWORKS[:1]
    return _SMALL_NETWORKS + (_LARGER_NETWORKS if images >= _IMAGES_FOR_LARGER else ())


def augmentation_for(dataset: Dataset) -> Augmentation:
    """What may be done to these images without changing their meaning.

    Grey images and classes named by single characters or numbers are taken for writing, which must not be
    mirrored; there the mask of cutout would also hide what tells two characters apart.
    """
    height, width, channels = dataset.input_shape
    side = min(height, width)
    writing = channels == 1 or all(len(name) == 1 or (name.isdigit() and len(name) < 3) for name in dataset.classes)
    shift = max(1, round(side / 12))
    if writing:
        return Augmentation(flip=False, shift=shift, cutout=0, lighting=0.2)
    # A small set is soon learned by heart and comes from few cameras; networks for small devices rarely learn
    # a large one by heart within a schedule, and stronger augmentation only slows them.
    small = len(dataset.train) < 5000
    return Augmentation(flip=True, shift=shift, cutout=side // 4 if small else 0, lighting=0.3 if small else 0.0)


def class_weights_for(dataset: Dataset) -> tuple[float, ...] | None:
    """Loss weight per class, 1/sqrt(count) scaled to mean 1 over the images; None while classes are balanced.

    The square root evens out rare classes without giving up the accuracy over all images.
    """
    counts = np.maximum(1, dataset.class_counts())
    if counts.max() <= 1.5 * counts.min():
        return None
    weights = 1 / np.sqrt(counts)
    weights *= counts.sum() / (weights * counts).sum()
    return tuple(float(round(weight, 4)) for weight in weights)


def full_epochs(images: int) -> int:
    """Epochs after which more training hardly helps, from what small sets and CIFAR-10 needed here."""
    steps = max(1, images // batch_size_for(images))
    return int(np.clip(math.ceil(1500 / steps), 30 if images < 20_000 else 60, 150))


def batch_size_for(images: int) -> int:
    return 128 if images >= 20_000 else 64 if images >= 2_000 else 32


def schedules(images: int, side: int, epochs: float) -> NetworkPlan:
    """The schedules of a network whose training from scratch takes `epochs`. side: of the input, pixels."""
    batch = batch_size_for(images)
    rate = 0.1 * math.sqrt(batch / 64)
    steps = max(1, images // batch)
    progressive = side >= _SMALLEST_PROGRESSIVE_SIDE and (epochs >= 8 or steps >= _STEPS_OF_LARGE_SETS)
    train = Schedule(1, batch, rate, warmup=0.15, progressive=progressive, orthogonal=True)
    prune = Schedule(1, batch, rate / 2, warmup=0.05)
    qat = Schedule(1, batch, 0.01, warmup=0.05, weight_decay=1e-4, clip_norm=1.0)
    pruned = max(_PRUNE_SHARE * epochs, min(3.0, _FEWEST_STEPS / steps))
    aware = max(_QAT_SHARE * epochs, min(1.0, max(_LARGEST_QAT_SHARE * epochs, _FEWEST_STEPS / steps)))
    cut = max(_CUT_SHARE * epochs, min(3.0, _CUT_STEPS / steps))
    return NetworkPlan(train.lasting(epochs), prune.lasting(pruned), qat.lasting(aware), prune.lasting(cut))


def plan_for(workspace: Workspace, epochs: float, step_epochs: float | None = None) -> NetworkPlan:
    """The schedules for so many epochs from scratch; of the user's own network, which comes trained, only the rest.

    step_epochs: of each further step of such a network, if given.
    """
    plan = schedules(len(workspace.dataset.train), min(workspace.dataset.input_shape[:2]), epochs)
    return plan if workspace.own is None else further_training(plan, step_epochs)


def further_training(plan: NetworkPlan, epochs: float | None) -> NetworkPlan:
    """The plan of a network that comes trained: nothing from scratch; `epochs`, if given, for each further step."""
    plan = replace(plan, train=plan.train.lasting(0))
    if epochs is None:
        return plan
    return replace(plan, prune=plan.prune.lasting(epochs), qat=plan.qat.lasting(epochs), cut=plan.cut.lasting(epochs))


def make_plan(
    workspace: Workspace,
    networks: Sequence[str],
    recipes: dict[str, list[Recipe]],
    seconds: float | None,
    epochs: float | None,
    *,
    epochs_of: Mapping[str, float] = MappingProxyType({}),
    all_networks: bool,
    seeds: Sequence[int] = (0,),
    known_only: bool = False,
    begun: float | None = None,
    share: float = PLANNED_SHARE,
) -> Plan | None:
    """Fit schedules to the time, or take `epochs` as given, and `epochs_of` for networks that shall have others.

    networks: candidates, best first. recipes: what will be run per network. epochs_of may also name their teachers.
    all_networks: the user named them, so none may be dropped. The plan is kept in the store: the same question gets the
    same answer, whatever the machine does at that moment, and nothing is trained anew.
    known_only: None where the store does not hold the plan, as making one takes time. begun: since when `seconds` run,
    by time.monotonic(); now, if not given. share: of the time that may be planned, 0 to 1.
    """
    begun = time.monotonic() if begun is None else begun
    teachers = _teachers([recipe for network in networks for recipe in recipes[network]])
    for network, value in epochs_of.items():
        if network not in (*networks, *teachers):
            raise UserError(f"--epochs {network}={value:g}: {network} is not studied here; {', '.join(networks)} are")
    images = len(workspace.dataset.train)
    asked = {
        "dataset": workspace.dataset.fingerprint,
        "networks": list(networks),
        "recipes": [str(recipe) for network in networks for recipe in recipes[network]],
        "stem": workspace.stem,
        "seconds": seconds,
        "epochs": epochs,
        "epochs_of": dict(epochs_of),
        "all": all_networks,
        "seeds": len(seeds),
        "target": workspace.target.name,
    }
    if share != PLANNED_SHARE:
        asked["share"] = share
    own = workspace.own
    if own is not None:
        asked["own"] = own.fingerprint

    def plan_of(count: float) -> NetworkPlan:
        return plan_for(workspace, count, epochs)

    def no_shorter_than_before(counts: dict[str, float]) -> dict[str, float]:
        """What was planned, and trained, for less time may be more than the machine seems fit for at this moment."""
        question = {name: value for name, value in asked.items() if name != "seconds"}
        plans = workspace.store.growing("plans", key_of("plans", VERSION, question))
        for path in plans.glob("*.json"):
            before = json.loads(path.read_bytes())
            trained = [Recipe(network, (Float32(),)) for network in before]  # of further steps some may never be made
            if (
                float(path.stem) <= seconds
                and all(before.get(network, 0) >= count for network, count in counts.items())
                and not remaining_trainings(
                    workspace, trained, {name: plan_of(count) for name, count in before.items()}, seeds
                )
            ):
                counts = before
        write_atomically(plans / f"{seconds:g}.json", json.dumps(counts).encode())
        return counts

    def make(folder: Path) -> None:
        from dlmo.training.device import best_device

        probe = _Probe.of_job(seconds or 0.0)
        with workspace.progress.stage("plan: time a few training steps"):
            timed = _in_training(workspace, networks, recipes)
            epoch = {name: _seconds_per_epoch(workspace, name, probe) for name in timed}
            plain = dict.fromkeys(networks, 0.0) | epoch
            costs = {name: _Cost.probe(workspace, name, recipes[name], plain, probe) for name in networks}
        spent = time.monotonic() - begun
        counts = _fit(costs, images, plan_of, seconds, epochs, epochs_of, all_networks, len(seeds), spent, share)
        if seconds is not None and epochs is None:
            counts = no_shorter_than_before(counts)
        counts |= {network: value for network, value in epochs_of.items() if network in networks}
        document = {
            "epochs": counts,
            "epoch_seconds": plain,
            "qat_epoch_seconds": {network: costs[network].qat for network in counts},
            "device": best_device().describe(),
            "dropped": [network for network in networks if network not in counts],
        }
        write_atomically(folder / "plan.json", json.dumps(document).encode())

    key = key_of("plan", VERSION, asked)
    if known_only and not workspace.store.has("plan", key):
        return None
    folder = workspace.store.stage("plan", key, make)
    document = json.loads((folder / "plan.json").read_text())
    plans = {
        network: replace(
            plan_of(count),
            teacher_trains={name: plan_of(epochs_of[name]).train for name in teachers if name in epochs_of},
            epoch_seconds=document["epoch_seconds"][network],
            qat_epoch_seconds=document["qat_epoch_seconds"][network],
            teacher_seconds=document["epoch_seconds"],
        )
        for network, count in document["epochs"].items()
    }
    count = max(document["epochs"].values())
    steps = {name: [step for recipe in recipes[name] for step in recipe.further_trainings] for name in plans}
    # Epochs that were asked for are no matter of time.
    notes = _notes(document, plans, steps, images, seconds if epochs is None else None)
    return Plan(plans, count, document["device"], notes)


def remaining_seconds(
    workspace: Workspace, recipes: Sequence[Recipe], plans: dict[str, NetworkPlan], seeds: Sequence[int]
) -> float:
    """How long the work that the store does not hold yet should take."""
    waiting = remaining_trainings(workspace, recipes, plans, seeds)
    scoring: dict[str, float] = {}
    total = sum(training.seconds + _SECONDS_PER_FILE for training in waiting.values())
    for seed in seeds:
        for recipe in recipes:
            # A file of a training that is still to come has no scores yet either.
            if trainings_of(workspace, recipe, plans[recipe.network], seed)[-1].key in waiting:
                if recipe.network not in scoring:
                    scoring[recipe.network] = _seconds_to_score(workspace, recipe.network)
                total += scoring[recipe.network]
    return total + len(recipes) * len(seeds)


def remaining_trainings(
    workspace: Workspace, recipes: Sequence[Recipe], plans: dict[str, NetworkPlan], seeds: Sequence[int]
) -> dict[str, Expected]:
    """The trainings, by key, that the store does not hold yet."""
    return {
        training.key: training
        for seed in seeds
        for recipe in recipes
        for training in trainings_of(workspace, recipe, plans[recipe.network], seed)
        if not workspace.store.has(training.stage, training.key)
    }


def _seconds_to_score(workspace: Workspace, network: str) -> float:
    """What running one file of this network on the validation and test images should take."""
    data = workspace.dataset
    return workspace.target.seconds_to_predict(len(data.validation) + len(data.test), macs_of(workspace, network))


def macs_of(workspace: Workspace, network: str) -> int:
    """Multiply-accumulates of one image through a network."""
    from dlmo import networks
    from dlmo.networks.counting import count_module

    shape = workspace.dataset.input_shape
    if not workspace.is_own(network):
        classes = len(workspace.dataset.classes)
        return networks.count(network, classes=classes, input_shape=shape, stem=workspace.stem).macs
    own = workspace.own
    if own.tflite is None:
        return count_module(own.module, shape).macs
    from dlmo.runtimes.litert import flatbuffer

    return flatbuffer.facts(own.tflite).macs


def _notes(
    document: dict,
    plans: dict[str, NetworkPlan],
    steps: Mapping[str, list[FurtherTraining]],
    images: int,
    seconds: float | None,
) -> tuple[str, ...]:
    """steps: of each network, those of its recipes that train it further."""
    lines: dict[str, list[str]] = {}
    for network, plan in plans.items():
        lines.setdefault(_schedule_in_words(plan, steps[network]), []).append(network)
    several = len(lines) > 1
    notes = [f"schedule{' of ' + ', '.join(of) if several else ''}: {line}" for line, of in lines.items() if line]
    full = full_epochs(images)
    if any(0 < plan.train.passes < _NEARLY_FULL * full for plan in plans.values()) and seconds is not None:
        notes.append(f"the time is short: a full schedule has {full} epochs; more --time gives better accuracy")
    if document["dropped"]:
        notes.append(f"not tried for lack of time: {', '.join(document['dropped'])}")
    return tuple(notes)


def _schedule_in_words(plan: NetworkPlan, steps: Sequence[FurtherTraining]) -> str:
    """Of a plan's trainings those that these steps ask for; empty where nothing is trained."""
    named = [(plan.train, "from scratch")] if plan.train.epochs else []
    ordered = sorted(steps, key=lambda step: list(STEPS).index(step.name))
    further = dict.fromkeys((plan.schedule_of(step), step.meanwhile) for step in ordered)
    named += [(schedule, words) for schedule, words in further if schedule.epochs]
    return ", ".join(f"{schedule.words} {words}" for schedule, words in named)


@dataclass(frozen=True)
class _Cost:
    """What one network costs.

    train, qat: seconds per epoch of plain and of quantization-aware training. trainings: the distinct ones, each its
    step (None: from scratch) and its distillation. files: how many files are made, each taking per_file seconds.
    teachers: seconds per epoch of each other network that teaches it.
    """

    train: float
    qat: float
    trainings: tuple[tuple[FurtherTraining | None, Kd | None], ...]
    files: int
    per_file: float
    teachers: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def probe(
        workspace: Workspace, network: str, recipes: list[Recipe], plain: Mapping[str, float], probe: "_Probe"
    ) -> "_Cost":
        """plain: seconds per epoch of plain training, of this network and of its teachers."""
        trainings: dict[tuple, tuple[FurtherTraining | None, Kd | None]] = {}
        for recipe in recipes:
            kd, further = recipe.kd, recipe.further_trainings
            if kd is not None and kd.born_again:
                trainings[None, (), None] = None, None
                for generation in range(1, kd.generations):
                    before = kd.model_copy(update={"generations": generation})
                    trainings[before, (), None] = None, before
            for end in range(len(further) + 1):
                trainings[kd, further[:end], _file_asked(further[:end], recipe)] = (
                    (further[end - 1] if end else None),
                    kd,
                )
        qat_seconds = 0.0
        if any(isinstance(step, Qat) for step, _ in trainings.values()):
            try:
                qat_seconds = _seconds_per_epoch(workspace, network, probe, quantization_aware=True)
            except PASSING:
                raise
            except Exception:  # a user's network may not allow it: the recipe will say why, others may go well
                qat_seconds = QAT_COST * plain[network]
        per_file = _SECONDS_PER_FILE + _seconds_to_score(workspace, network)
        teachers = {name: plain[name] for name in _teachers(recipes)}
        return _Cost(plain[network], qat_seconds, tuple(trainings.values()), len(recipes), per_file, teachers)

    def seconds(self, plan: NetworkPlan, seeds: int) -> float:
        """All but the training of its teachers, which networks may share."""
        plan = replace(plan, epoch_seconds=self.train, qat_epoch_seconds=self.qat, teacher_seconds=self.teachers)
        training = sum(plan.seconds_of(step, kd) for step, kd in self.trainings)
        return seeds * (training + self.files * self.per_file)


def _seconds(costs: Mapping[str, _Cost], plan_of: Callable[[str], NetworkPlan], seeds: int) -> float:
    """All the work on these networks; a teacher is trained once, for all networks and seeds.

    plan_of: the schedules of a network or teacher.
    """
    teachers = {
        kd.teacher: cost.teachers[kd.teacher]
        for cost in costs.values()
        for _, kd in cost.trainings
        if kd is not None and kd.scheme == "offline" and kd.teacher in cost.teachers
    }
    before = sum(
        replace(plan_of(name), epoch_seconds=seconds).seconds_of(None)
        for name, seconds in teachers.items()
        if name not in costs or (None, None) not in costs[name].trainings
    )
    return before + sum(cost.seconds(plan_of(name), seeds) for name, cost in costs.items())


def _file_asked(steps: Sequence[FurtherTraining], recipe: Recipe) -> str | None:
    """The number format that these steps of a recipe depend on, where they cut to what its file takes."""
    return recipe.precision.name if any(step.needs_files for step in steps) else None


def _teachers(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """The networks that have to be built, and timed, as teachers of these recipes."""
    named = [recipe.kd.teacher for recipe in recipes if recipe.kd is not None and not recipe.kd.from_file]
    return tuple(dict.fromkeys(name for name in named if name != "self"))


def _in_training(workspace: Workspace, networks: Sequence[str], recipes: dict[str, list[Recipe]]) -> tuple[str, ...]:
    """The networks that are trained, and their teachers; the user's own only where a step trains it further."""
    trained = [
        network
        for network in networks
        if not workspace.is_own(network) or any(recipe.further_trainings for recipe in recipes[network])
    ]
    teachers = _teachers([recipe for network in networks for recipe in recipes[network]])
    return tuple(dict.fromkeys((*trained, *teachers)))


def _fit(
    costs: dict[str, _Cost],
    images: int,
    plan_of: Callable[[float], NetworkPlan],
    seconds: float | None,
    epochs: float | None,
    epochs_of: Mapping[str, float],
    all_networks: bool,
    seeds: int,
    spent: float = 0.0,
    share: float = PLANNED_SHARE,
) -> dict[str, float]:
    """The networks to try, and how many epochs each is trained from scratch.

    plan_of: the schedules for so many epochs. epochs_of: what is asked for of some networks and teachers, whatever it
    takes. spent: of the seconds, so far. share: of the rest, for all of them.
    """
    full = full_epochs(images)
    names = list(costs)
    if seconds is None or epochs is not None or set(names) <= set(epochs_of):
        return dict.fromkeys(names, epochs or full)

    steps = images // batch_size_for(images)
    parts = [part for part in _PARTS_OF_AN_EPOCH if part * steps >= _FEWEST_STEPS]

    def seconds_of(chosen: list[str], count: float) -> float:
        return _seconds({name: costs[name] for name in chosen}, lambda name: plan_of(epochs_of.get(name, count)), seeds)

    def affordable(chosen: list[str]) -> float:
        """The longest schedule, in epochs, that fits; 0 if none does. Of large sets a part of an epoch may do."""
        left = (seconds - spent) * share
        return next((count for count in (*range(full, 0, -1), *parts) if seconds_of(chosen, count) <= left), 0)

    chosen = names if all_networks else names[:1]
    # A further network takes nothing from the schedules of those before it: more time makes no answer worse.
    while len(chosen) < len(names) and affordable(names[: len(chosen) + 1]) == full:
        chosen = names[: len(chosen) + 1]
    count = affordable(chosen)
    if count == 0:
        least = min(parts, default=1)
        needed = spent + seconds_of(chosen, least) / share
        words = "one epoch" if least == 1 else f"{least:.0%} of an epoch"
        files = sum(costs[name].files for name in chosen) * seeds
        raise TooShort(
            f"--time of {seconds:g} seconds is too short: {words} of {', '.join(chosen)} with all further steps, and "
            f"{files} files to make and measure, take longer on this machine: give at least "
            f"{math.ceil(needed / 60)}m, or fewer networks or setups"
        )
    return dict.fromkeys(chosen, count)


@dataclass(frozen=True)
class _Probe:
    """How long to look at the training of a network, seconds, and how much longer than seen an epoch then takes."""

    lasting: float
    pace: float

    @staticmethod
    def of_job(seconds: float) -> "_Probe":
        lasting = float(np.clip(_PROBE_SHARE * seconds, _SHORTEST_PROBE, _LONGEST_PROBE))
        return _Probe(lasting, 1 + _SLOWER_IN_THE_LONG_RUN * min(1.0, seconds / _LONG_RUN))


def _seconds_per_epoch(workspace: Workspace, network: str, probe: _Probe, quantization_aware: bool = False) -> float:
    """Time the training of an epoch by some of its steps, and the look at validation images behind it."""
    import torch

    from dlmo.study.workspace import build_network
    from dlmo.techniques.fake_quantization import QuantizationAwareTraining
    from dlmo.techniques.technique import Technique
    from dlmo.training.device import best_device
    from dlmo.training.loop import CURVE_IMAGES, predict, train

    data = workspace.dataset
    images = len(data.train)
    batch = batch_size_for(images)
    steps_per_epoch = max(1, images // batch)

    stamps = [time.monotonic()]

    device = best_device()
    least = _LEAST_PROBE_STEPS_OF_GPU if device.name == "cuda" else _LEAST_PROBE_STEPS

    def stamp(share: float) -> None:
        if device.name == "cuda":
            torch.cuda.synchronize()  # a GPU's steps are only queued when they return
        stamps.append(time.monotonic())
        if len(stamps) > least and stamps[-1] - stamps[0] > probe.lasting:
            raise _EnoughSeen

    part = data.train.take(np.arange(min(images, batch * _PROBE_BATCHES)))
    nothing = data.validation.take(np.arange(1))
    torch.manual_seed(0)
    fresh = build_network(workspace, network)
    rounds = max(1, round(probe.lasting / _SHORTEST_PROBE), math.ceil(least / max(1, len(part) // batch)))
    setup = Schedule(rounds, min(batch, images), 0.001, 0.1, orthogonal=not quantization_aware)
    with contextlib.suppress(_EnoughSeen):
        train(
            fresh, part, nothing, setup, workspace.augmentation, device, 0,
            technique=QuantizationAwareTraining() if quantization_aware else Technique(), progress=stamp,
        )  # fmt: skip
    # The first steps also choose kernels and fill memory pools, and find the processor rested.
    steps = np.diff(stamps)
    seconds = float(np.mean(steps[len(steps) // 2 :])) * steps_per_epoch
    some = data.validation.spread(_PROBE_VALIDATION_IMAGES)
    fresh = fresh.to(device.name)
    predict(fresh, some, device)  # chooses kernels too
    started = time.monotonic()
    predict(fresh, some, device)
    judged = (time.monotonic() - started) / len(some) * min(CURVE_IMAGES, len(data.validation))
    return probe.pace * (seconds + judged)


class _EnoughSeen(Exception):
    """Stops a probe that has lasted long enough."""
