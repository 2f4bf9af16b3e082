"""The reference study's grids: its networks, its setups, its data sets, ours beside theirs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo import networks as registry
from dlmo.errors import UserError
from dlmo.progress import Progress, SilentProgress, WithinTotal
from dlmo.strategy.budget import parse_duration
from dlmo.strategy.findings import Finding, Measured, findings, findings_on_teaching
from dlmo.strategy.job import Finished, Job, expected_seconds, plan_job, prepare, run_prepared
from dlmo.strategy.options import Options
from dlmo.strategy.study import study_job
from dlmo.strategy.train_only import TrainedOnly, train_only
from dlmo.study import published
from dlmo.study.results import Run
from dlmo.study.run import comparer
from dlmo.study.stages import many_seconds

if TYPE_CHECKING:
    from dlmo.measure.speed import Speed


@dataclass(frozen=True)
class Grid:
    """What the study measured of one kind.

    always: setups that are measured beside those asked for, as what they are compared with. findings: tests the
    study's claims.
    """

    title: str
    networks: tuple[str, ...]
    setups: tuple[str, ...]
    datasets: tuple[str, ...]
    always: tuple[str, ...]
    findings: Callable[[Mapping[str, Measured]], tuple[Finding, ...]]


# By what `dlmo study` calls them.
GRIDS = {
    "paper": Grid(
        "The reference study, measured again",
        published.NETWORKS, published.SETUPS, published.DATASETS, (), findings,
    ),
    "paper-kd": Grid(
        "The reference study's distillation, measured again",
        published.TAUGHT_NETWORKS, published.TAUGHT_SETUPS, ("cifar10",), ("NQ",), findings_on_teaching,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PaperStudy:
    """name, title: of its grid. runs: by data set name. findings: the study's claims, tested on these runs. speeds: by
    data set name and artifact."""

    name: str
    title: str
    runs: dict[str, Run]
    findings: tuple[Finding, ...]
    speeds: "dict[str, dict[str, Speed]]" = field(default_factory=dict)

    def to_json(self) -> dict:
        return {
            "runs": {name: run.to_json() for name, run in self.runs.items()},
            "findings": [
                {"claim": f.claim, "verdict": f.verdict, "cases": [vars(case) for case in f.cases]}
                for f in self.findings
            ],
            "speeds": {
                dataset: {artifact: asdict(speed) for artifact, speed in speeds.items()}
                for dataset, speeds in self.speeds.items()
            },
        }


@dataclass(frozen=True)
class Asked:
    """One of the study's grids, or the part of it with these networks, setups and data sets.

    data: folder with the official files of its data sets, None for $DLMO_DATA. name: see GRIDS. kd, prune: what
    KD and PRN stand for in setups. options.time is for all data sets together; with options.out each data set's run is
    written to a folder of its name, the comparison beside them.
    """

    data: str | Path | None
    name: str = "paper"
    network: Sequence[str] = ()
    setup: Sequence[str] = ()
    dataset: Sequence[str] = ()
    kd: str = "kd"
    prune: str = "prune"
    options: Options = Options(time=None)


def study_paper(asked: Asked, progress: Progress | None = None) -> PaperStudy:
    """Run what is asked for and compare it with what the study published."""
    from dlmo.package.folder import check_free, check_writable, clear

    progress = progress or SilentProgress()
    runs: dict[str, Run] = {}
    measured: dict[str, Measured] = {}
    speeds: dict[str, dict[str, Speed]] = {}
    parts = _parts(asked)
    if asked.options.folder is not None:
        check_writable(asked.options.folder)
        check_free(asked.options.folder)
    # All of them first: what is wrong with the last one is better known before a day of training, and so is the time.
    ready = [prepare(part.source, part.job, part.options, WithinTotal(progress)) for part in parts]
    planned = [plan_job(one, part.job, part.options) for one, part in zip(ready, parts)]
    seconds = [expected_seconds(*one, part.options) for *one, part in zip(ready, planned, parts)]
    with progress.total(None if None in seconds else sum(seconds)):
        for part, data, plan in zip(parts, ready, planned):
            finished = run_prepared(data, part.job, part.options, time.monotonic(), plan)
            runs[part.dataset] = finished.run
            speeds[part.dataset] = speeds_of(finished, progress)
            compare = comparer(finished.outcomes, finished.workspace.dataset)
            for seed in asked.options.seeds:
                label = part.dataset if len(asked.options.seeds) == 1 else f"{part.dataset}, seed {seed}"
                results = tuple(result for result in finished.run.results if result.seed == seed)
                measured[label] = Measured(results, compare)
    grid = GRIDS[asked.name]
    found = PaperStudy(asked.name, grid.title, runs, grid.findings(measured), speeds)
    if asked.options.folder is not None:
        from dlmo.report.study_page import write_study

        clear(asked.options.folder)
        write_study(asked.options.folder, found)
    return found


def train_paper(asked: Asked, progress: Progress | None = None) -> TrainedOnly:
    """The training part of `study_paper`, for a machine without a runtime."""
    done = [train_only(part.source, part.job, part.options, progress) for part in _parts(asked)]
    return TrainedOnly(
        done[0].store,
        tuple(training for part in done for training in part.trainings),
        tuple(failure for part in done for failure in part.failures),
    )


@dataclass(frozen=True)
class _Part:
    """A grid on one of its data sets."""

    dataset: str
    source: str
    job: Job
    options: Options


def _parts(asked: Asked) -> list[_Part]:
    from dlmo.data.cifar import CIFAR10, CIFAR100, find_release

    data, name, options = asked.data, asked.name, asked.options
    grid = GRIDS[name]
    if options.targets != ("cpu",):
        named = " ".join(options.targets)
        raise UserError(f"--target {named}: the paper's grid compares latencies of this machine; leave it out")
    chosen = [registry.canonical(entry) for entry in asked.network] or list(grid.networks)
    codes = [code for entry in asked.setup for code in entry.split(",")] or list(grid.setups)
    known = (*grid.always, *grid.setups)
    unknown = [entry for entry in chosen if registry.plain_name(entry) not in grid.networks]
    if unknown:
        raise UserError(f"{name}: the study has no network {unknown[0]}; it has {', '.join(grid.networks)}")
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise UserError(f'{name}: the study has no setup "{unknown[0]}"; it has {", ".join(known)}')
    unknown = [entry for entry in asked.dataset if entry not in grid.datasets]
    if unknown:
        raise UserError(f"{name}: --dataset {unknown[0]} is not the study's; it has {', '.join(grid.datasets)}")
    datasets = [entry for entry in grid.datasets if entry in (asked.dataset or grid.datasets)]
    for release in (CIFAR10, CIFAR100):  # a missing one is better known before a day of training
        if release.name in datasets:
            find_release(release, None if data is None else str(data))
    if options.time is not None:
        options = replace(options, time=f"{parse_duration('--time', options.time) / len(datasets)}s")
    setups = list(dict.fromkeys((*grid.always, *codes)))
    parts = []
    for dataset in datasets:
        source = dataset if data is None else f"{dataset}:{data}"
        part = options if options.folder is None else replace(options, out=options.folder / dataset)
        job = study_job(source, chosen, setups, (), None, part, asked.kd, asked.prune)
        parts.append(_Part(dataset, source, job, part))
    return parts


def speeds_of(finished: Finished, progress: Progress) -> "dict[str, Speed]":
    """What many test images take each file of a run, by its name."""
    from dlmo.measure.speed import MANY, measure_speed

    outcomes = finished.outcomes
    with progress.stage(f"run {len(outcomes)} files on {MANY:,} images, one thread and all") as update:
        contents = [outcome.content for outcome in outcomes]
        found = measure_speed(contents, partial(many_seconds, finished.workspace), update)
    return {outcome.result.artifact: speed for outcome, speed in zip(outcomes, found)}
