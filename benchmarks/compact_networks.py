"""The search that found the `compact` networks, and how they compare with others at the same bytes.

    python benchmarks/compact_networks.py SOURCE search --journal FILE [--kilobytes 96] [--mega-macs 40] [--trials 60]
        [--seconds 600] [--epochs 8] [--seed 0]
    python benchmarks/compact_networks.py SOURCE compare --journal FILE [--finalists 4] [--epochs 24] [--seed 0]
        [--kilobytes 96] [--rivals resnet8 resnet20] [--only N]

`search`: Optuna proposes three or four stages: their kind, channels, inner channels, blocks and kernels. Each proposal
is brought to the given size by its width; what then has more multiply-accumulates is dropped, the rest trained for a
few epochs. Several processes may search with one journal, each with a seed of its own.
`compare`: the best proposals trained for longer, and beside them the rivals, brought to the same size by their width.
Sizes are estimates of the int8 file, in kilobytes of 1,000 bytes. Accuracies are on validation images; test images are
never looked at.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from torch import nn

from dlmo import networks
from dlmo.data import Dataset, load
from dlmo.errors import UserError
from dlmo.networks.compact import Compact, Stage
from dlmo.networks.counting import layers_of
from dlmo.strategy.plan import augmentation_for, schedules
from dlmo.training import loop
from dlmo.training.device import best_device

# Bytes of an int8 file beside its weights: for each channel bias and two scales, for each layer its description, and
# the rest. ResNet-20's file has 287,360 bytes, by this 287,000.
CHANNEL_BYTES, LAYER_BYTES, FILE_BYTES = 12, 220, 1_500
WIDTHS = np.arange(0.05, 4.0, 0.01)

SEARCH_EPOCHS, LONGER_EPOCHS = 8, 24

Builder = Callable[[float], nn.Module]  # from a width


def file_bytes(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[int, int]:
    """Estimated bytes of the int8 file, and multiply-accumulates of one image."""
    shapes = [shape for _, shape in layers_of(network, input_shape)]
    size = sum(s.weights + CHANNEL_BYTES * s.outputs + LAYER_BYTES for s in shapes) + FILE_BYTES
    return size, sum(s.macs for s in shapes)


def widest(build: Builder, data: Dataset, limit: int) -> tuple[float, int, int] | None:
    """The largest width whose file keeps the limit, its bytes and its multiply-accumulates."""
    found, low, high = None, 0, len(WIDTHS) - 1
    while low <= high:
        middle = (low + high) // 2
        with torch.device("meta"):
            size, macs = file_bytes(build(float(WIDTHS[middle])), data.input_shape)
        if size <= limit:
            found, low = (float(WIDTHS[middle]), size, macs), middle + 1
        else:
            high = middle - 1
    return found


def proposed(trial: optuna.Trial) -> tuple[Stage, ...]:
    """The stages a trial's parameters stand for."""
    stages = []
    channels = 16.0
    for number in range(4):
        blocks = trial.suggest_int(f"blocks{number}", 0 if number == 3 else 1, 5 if number < 3 else 2)
        kind = trial.suggest_categorical(f"kind{number}", ("residual", "inverted"))
        kernel = trial.suggest_categorical(f"kernel{number}", (3, 5))
        inner = trial.suggest_int(f"inner{number}", 0, 3)
        if number:
            channels *= trial.suggest_float(f"growth{number}", 1.0, 2.5, step=0.25)
        if not blocks:
            continue
        if kind == "residual":
            stages.append(Stage(kind, round(channels), (0.5, 0.75, 1.0, 1.5)[inner], blocks))
        else:
            stages.append(Stage(kind, round(channels), (1, 2, 4, 6)[inner], blocks, kernel))
    return tuple(stages)


def words_of(stages: tuple[Stage, ...]) -> str:
    return " ".join(f"{s.kind[0]}{s.kernel}-{s.channels}x{s.inner:g}x{s.blocks}" for s in stages)


def accuracy(build: Builder, data: Dataset, width: float, epochs: float, seed: int) -> float:
    """On validation images, 0 to 1."""
    device = best_device()
    torch.manual_seed(seed)
    schedule = schedules(len(data.train), min(data.input_shape[:2]), epochs).train
    trained = loop.train(
        build(width), data.train, data.validation, schedule, augmentation_for(data), device, seed
    ).network.to(device.name)
    right = loop.predict(trained, data.validation, device).argmax(1) == data.validation.labels
    return float(right.mean())


def builder_of(stages: tuple[Stage, ...], data: Dataset) -> Builder:
    return lambda width: Compact(
        classes=len(data.classes), channels=data.input_shape[2], strides=(1, 1), width=width, stages=stages
    )


def rival_of(name: str, data: Dataset) -> Builder:
    return lambda width: networks.build(
        f"{name}@{width:.3f}:small", classes=len(data.classes), input_shape=data.input_shape
    )


def open_study(journal: str, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=16, constant_liar=True)
    return optuna.create_study(
        direction="maximize",
        storage=JournalStorage(JournalFileBackend(journal)),
        study_name="compact",
        sampler=sampler,
        load_if_exists=True,
    )


def trained_of(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=[optuna.trial.TrialState.COMPLETE])


def search(arguments: argparse.Namespace, data: Dataset) -> None:
    study, begun = open_study(arguments.journal, arguments.seed), time.monotonic()
    limit, most = round(1000 * arguments.kilobytes), 1e6 * arguments.mega_macs

    def objective(trial: optuna.Trial) -> float:
        stages = proposed(trial)
        build, started = builder_of(stages, data), time.monotonic()
        fitting = widest(build, data, limit)
        if fitting is None or fitting[2] > most:
            raise optuna.TrialPruned
        right = accuracy(build, data, fitting[0], arguments.epochs or SEARCH_EPOCHS, 0)
        trial.set_user_attr("stages", [asdict(stage) for stage in stages])
        print(f"{trial.number}: {right:.2%} {words_of(stages)}@{fitting[0]:.2f}: {fitting[1] / 1000:.1f} KB "
              f"{fitting[2] / 1e6:.1f} M, {time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
        return right

    def enough() -> bool:
        return len(trained_of(study)) >= arguments.trials or time.monotonic() - begun > arguments.seconds

    while not enough():
        study.optimize(objective, n_trials=1)


def compare(arguments: argparse.Namespace, data: Dataset) -> None:
    limit = round(1000 * arguments.kilobytes)
    best = sorted(trained_of(open_study(arguments.journal, 0)), key=lambda trial: -trial.value)
    # Each once: not all that a trial proposes shapes its network.
    entries = list(dict.fromkeys(tuple(Stage(**stage) for stage in trial.user_attrs["stages"]) for trial in best))
    entries = entries[: arguments.finalists]
    builders = [(f"{words_of(stages)} {stages}", builder_of(stages, data)) for stages in entries]
    builders += [(name, rival_of(name, data)) for name in arguments.rivals]
    for name, build in builders if arguments.only is None else builders[arguments.only : arguments.only + 1]:
        fitting, started = widest(build, data, limit), time.monotonic()
        if fitting is None:
            print(f"no width from {WIDTHS[0]:g} on keeps the limit: {name}", flush=True)
            continue
        right = accuracy(build, data, fitting[0], arguments.epochs or LONGER_EPOCHS, arguments.seed)
        print(f"{right:.2%}, {fitting[1] / 1000:.1f} KB, {fitting[2] / 1e6:.1f} M, width {fitting[0]:.2f}, "
              f"{time.monotonic() - started:.0f} s: {name}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("part", choices=("search", "compare"))
    parser.add_argument("--journal", required=True, help="file of the search, which goes on where it was")
    parser.add_argument("--kilobytes", type=float, default=96)
    parser.add_argument("--mega-macs", type=float, default=40)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=600, help="no trial begins later")
    parser.add_argument("--epochs", type=float, help=f"default: {SEARCH_EPOCHS} to search, {LONGER_EPOCHS} to compare")
    parser.add_argument("--finalists", type=int, default=4)
    parser.add_argument("--rivals", nargs="*", default=["resnet8", "resnet20"])
    parser.add_argument("--only", type=int, help="of those compared, this one alone, from 0")
    parser.add_argument("--seed", type=int, default=0, help="of the proposals; in compare, of the trainings")
    arguments = parser.parse_args()
    try:
        data = load(arguments.source)
    except UserError as error:
        raise SystemExit(str(error)) from None
    search(arguments, data) if arguments.part == "search" else compare(arguments, data)


if __name__ == "__main__":
    main()
