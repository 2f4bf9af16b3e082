"""Planning: which networks to try and how long to train each, so that the work fits the time."""

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dlmo.data.dataset import Dataset
from dlmo.errors import UserError
from dlmo.runtimes.litert.flatbuffer import write_atomically
from dlmo.study.recipe import PruneChannels, Qat, Recipe, Step
from dlmo.study.stages import NetworkPlan, Workspace, training_keys
from dlmo.study.store import key_of
from dlmo.training.schedule import Augmentation, Schedule

# Tried when the user names no network, in this order, as many as the time allows to train properly. The same for
# every service: a service changes what is chosen, so that asking for another one trains nothing anew.
_SMALL_NETWORKS = ("resnet8", "resnet8@0.5")
_LARGER_NETWORKS = ("resnet20@0.5", "resnet20")
_IMAGES_FOR_LARGER = 5_000
# Share of the time that is planned; the rest is for what the probe got wrong.
_PLANNED_SHARE = 0.95
# Converting (once per training), quantizing and measuring a file; running it on 10,000 images.
_SECONDS_PER_FILE = 5.0
_SECONDS_PER_10_000_IMAGES = 8.0
_PROBE_SECONDS, _LEAST_PROBE_STEPS, _MOST_PROBE_STEPS = 2.0, 4, 40
# A further network is worth adding only if every network then still gets this share of its full schedule.
_ENOUGH_OF_SCHEDULE = 0.5
_PRUNE_SHARE, _QAT_SHARE, _CUT_SHARE = 0.2, 0.06, 0.4
_SMALLEST_PROGRESSIVE_SIDE = 28
_VERSION = 5


@dataclass(frozen=True)
class Plan:
    """Networks with their schedules. device: what trains, in words."""

    networks: dict[str, NetworkPlan]
    device: str
    notes: tuple[str, ...]


def default_networks(images: int) -> tuple[str, ...]:
    """Candidates for so many training images; few images cannot fill a larger network."""
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


def schedules(images: int, side: int, epochs: int) -> NetworkPlan:
    """The schedules of a network whose training from scratch takes `epochs`. side: of the input, pixels."""
    batch = batch_size_for(images)
    rate = 0.1 * math.sqrt(batch / 64)
    train = Schedule(epochs, batch, rate, warmup=0.15, progressive=side >= _SMALLEST_PROGRESSIVE_SIDE and epochs >= 8)
    prune = Schedule(max(3, round(_PRUNE_SHARE * epochs)), batch, rate / 2, warmup=0.05)
    qat = Schedule(max(1, round(_QAT_SHARE * epochs)), batch, 0.01, warmup=0.05, weight_decay=1e-4, clip_norm=1.0)
    cut = prune.lasting(max(3, round(_CUT_SHARE * epochs)))
    return NetworkPlan(train, prune, qat, cut)


def further_training(plan: NetworkPlan, epochs: int | None) -> NetworkPlan:
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
    epochs: int | None,
    *,
    all_networks: bool,
    seeds: int = 1,
) -> Plan:
    """Fit schedules to the time, or take `epochs` as given.

    networks: candidates, best first. recipes: what will be run per network. all_networks: the user named them,
    so none may be dropped. The plan is kept in the store: the same question gets the same answer, whatever the
    machine does at that moment, and nothing is trained anew.
    """
    images = len(workspace.dataset.train)
    side = min(workspace.dataset.input_shape[:2])
    asked = {
        "dataset": workspace.dataset.fingerprint,
        "networks": list(networks),
        "recipes": [str(recipe) for network in networks for recipe in recipes[network]],
        "stem": workspace.stem,
        "seconds": seconds,
        "epochs": epochs,
        "all": all_networks,
        "seeds": seeds,
    }
    own = workspace.own
    if own is not None:
        asked["own"] = own.fingerprint

    def plan_of(count: int) -> NetworkPlan:
        plan = schedules(images, side, count)
        return plan if own is None else further_training(plan, epochs)

    def make(folder: Path) -> None:
        from dlmo.training.device import best_device

        with workspace.progress.stage("plan: time a few training steps"):
            costs = {network: _Cost.probe(workspace, network, recipes[network]) for network in networks}
        counts = _fit(costs, images, side, seconds, epochs, all_networks, seeds)
        document = {
            "epochs": counts,
            "epoch_seconds": {network: costs[network].train for network in counts},
            "qat_epoch_seconds": {network: costs[network].qat for network in counts},
            "device": best_device().describe(),
            "dropped": [network for network in networks if network not in counts],
        }
        write_atomically(folder / "plan.json", json.dumps(document).encode())

    folder = workspace.store.stage("plan", key_of("plan", _VERSION, asked), make)
    document = json.loads((folder / "plan.json").read_text())
    plans = {
        network: replace(
            plan_of(count),
            epoch_seconds=document["epoch_seconds"][network],
            qat_epoch_seconds=document["qat_epoch_seconds"][network],
        )
        for network, count in document["epochs"].items()
    }
    cuts = any(isinstance(step, PruneChannels) for listed in recipes.values() for r in listed for step in r.steps)
    return Plan(plans, document["device"], _notes(document, plans, cuts, images, seconds))


def remaining_seconds(
    workspace: Workspace, recipes: Sequence[Recipe], plans: dict[str, NetworkPlan], seeds: Sequence[int]
) -> float:
    """How long the work that the store does not hold yet should take."""
    seen: set[str] = set()
    total = 0.0
    for seed in seeds:
        for recipe in recipes:
            plan = plans[recipe.network]
            keys = training_keys(workspace, recipe, plan, seed)
            for (stage, key), step in zip(keys, [None, *recipe.steps[:-1]]):
                if key not in seen and workspace.store.finished(stage, key) is None:
                    total += plan.seconds_of(step) + _SECONDS_PER_FILE
                seen.add(key)
    return total + len(recipes) * len(seeds)


def _notes(
    document: dict, plans: dict[str, NetworkPlan], cuts: bool, images: int, seconds: float | None
) -> tuple[str, ...]:
    """cuts: whether any recipe cuts channels."""
    first = next(iter(plans.values()))
    start = f"{first.train.epochs} epochs from scratch, " if first.train.epochs else ""
    notes = [f"schedule: {start}{first.prune.epochs} while pruning, {first.qat.epochs} quantization-aware"]
    if cuts:
        notes[0] += f", {first.cut.epochs} while cutting channels"
    full = full_epochs(images)
    if 0 < first.train.epochs < full and seconds is not None:
        notes.append(f"the time is short: a full schedule has {full} epochs; more --time gives better accuracy")
    if document["dropped"]:
        notes.append(f"not tried for lack of time: {', '.join(document['dropped'])}")
    return tuple(notes)


@dataclass(frozen=True)
class _Cost:
    """What one network costs.

    train, qat: seconds per epoch of plain and of quantization-aware training. steps: the distinct trainings that
    follow the one from scratch. files: how many files are made, each taking per_file seconds. from_scratch: whether
    the network is trained from scratch, or comes trained.
    """

    train: float
    qat: float
    steps: tuple[Step, ...]
    files: int
    per_file: float
    from_scratch: bool = True

    @staticmethod
    def probe(workspace: Workspace, network: str, recipes: list[Recipe]) -> "_Cost":
        prefixes = {
            recipe.steps[:end]: recipe.steps[end - 1] for recipe in recipes for end in range(1, len(recipe.steps))
        }
        steps = tuple(prefixes.values())
        if workspace.is_own(network) and not steps:
            train = qat = 0.0
        else:
            train, qat = _seconds_per_epoch(workspace, network, any(isinstance(step, Qat) for step in steps))
        scored = len(workspace.dataset.validation) + len(workspace.dataset.test)
        per_file = _SECONDS_PER_FILE + scored / 10_000 * _SECONDS_PER_10_000_IMAGES
        return _Cost(train, qat, steps, len(recipes), per_file, not workspace.is_own(network))

    def seconds(self, plan: NetworkPlan, seeds: int) -> float:
        plan = replace(plan, epoch_seconds=self.train, qat_epoch_seconds=self.qat)
        first = (None,) if self.from_scratch else ()
        training = sum(plan.seconds_of(step) for step in (*first, *self.steps))
        return seeds * (training + self.files * self.per_file)


def _fit(
    costs: dict[str, _Cost],
    images: int,
    side: int,
    seconds: float | None,
    epochs: int | None,
    all_networks: bool,
    seeds: int,
) -> dict[str, int]:
    """The networks to try, and how many epochs each is trained from scratch."""
    full = full_epochs(images)
    names = list(costs)
    if seconds is None or epochs is not None:
        return dict.fromkeys(names, epochs or full)

    def affordable(chosen: list[str]) -> int:
        """The longest schedule, in epochs, that fits; 0 if not even one epoch does."""

        def fits(count: int) -> bool:
            plan = schedules(images, side, count)
            return sum(costs[name].seconds(plan, seeds) for name in chosen) <= seconds * _PLANNED_SHARE

        return next((count for count in range(full, 0, -1) if fits(count)), 0)

    chosen = names if all_networks else names[:1]
    while not all_networks and len(chosen) < len(names):
        if affordable(names[: len(chosen) + 1]) < _ENOUGH_OF_SCHEDULE * full:
            break
        chosen = names[: len(chosen) + 1]
    count = affordable(chosen)
    if count == 0:
        needed = sum(costs[n].seconds(schedules(images, side, 1), seeds) for n in chosen) / _PLANNED_SHARE
        raise UserError(
            f"--time is too short for one epoch of {', '.join(chosen)} with all steps on this machine: "
            f"give at least {math.ceil(needed / 60)}m, or fewer networks or setups"
        )
    return dict.fromkeys(chosen, count)


def _seconds_per_epoch(workspace: Workspace, network: str, with_qat: bool) -> tuple[float, float]:
    """Time a few steps of plain and of quantization-aware training."""
    import torch

    from dlmo.study.stages import build_network
    from dlmo.techniques.fake_quantization import QuantizationAwareTraining
    from dlmo.techniques.technique import Technique
    from dlmo.training.device import best_device
    from dlmo.training.loop import train

    data = workspace.dataset
    images = len(data.train)
    batch = batch_size_for(images)
    steps_per_epoch = max(1, images // batch)

    def timed(technique: Technique) -> float:
        stamps = [time.monotonic()]

        def stamp(share: float) -> None:
            stamps.append(time.monotonic())
            if len(stamps) > _LEAST_PROBE_STEPS and stamps[-1] - stamps[0] > _PROBE_SECONDS:
                raise _EnoughSeen

        part = data.train.take(np.arange(min(images, batch * _MOST_PROBE_STEPS)))
        nothing = data.validation.take(np.arange(1))
        torch.manual_seed(0)
        fresh = build_network(workspace, network)
        setup = Schedule(1, min(batch, images), 0.001, 0.1)
        with contextlib.suppress(_EnoughSeen):
            train(
                fresh, part, nothing, setup, workspace.augmentation, best_device(), 0,
                technique=technique, progress=stamp,
            )  # fmt: skip
        # The first steps also choose kernels and fill memory pools.
        return float(np.median(np.diff(stamps)[2:] if len(stamps) > 4 else np.diff(stamps))) * steps_per_epoch

    return timed(Technique()), timed(QuantizationAwareTraining()) if with_qat else 0.0


class _EnoughSeen(Exception):
    """Stops a probe that has lasted long enough."""
