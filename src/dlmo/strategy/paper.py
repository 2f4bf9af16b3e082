"""The reference study's whole grid: its networks, its setups, both data sets, ours beside theirs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo import networks as registry
from dlmo.errors import UserError
from dlmo.progress import Progress, SilentProgress
from dlmo.strategy.budget import parse_duration
from dlmo.strategy.findings import Finding, Measured, findings
from dlmo.strategy.job import Finished, Job, Options, run_job
from dlmo.strategy.study import study_job
from dlmo.strategy.train_only import TrainedOnly, train_only
from dlmo.study import published
from dlmo.study.results import Run
from dlmo.study.run import comparer

if TYPE_CHECKING:
    from dlmo.measure.speed import Speed


@dataclass(frozen=True)
class PaperStudy:
    """runs: by data set name. findings: the study's claims, tested on these runs. speeds: by data set name and
    artifact."""

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


def study_paper(
    data: str | Path | None,
    *,
    network: Sequence[str] = (),
    setup: Sequence[str] = (),
    options: Options | None = None,
    progress: Progress | None = None,
) -> PaperStudy:
    """Run the study's grid, or the named part of it, on CIFAR-10 and CIFAR-100.

    data: folder with the official files of both, None for $DLMO_DATA. options.time is for both data sets together;
    with options.out each data set's run is written to a folder of its name, the comparison beside them.
    """
    options = options or Options(time=None)
    runs: dict[str, Run] = {}
    measured: dict[str, Measured] = {}
    speeds: dict[str, dict[str, Speed]] = {}
    for name, source, job, part in _parts(data, network, setup, options):
        finished = run_job(source, job, part, progress)
        runs[name] = finished.run
        speeds[name] = speeds_of(finished, progress or SilentProgress())
        first = tuple(result for result in finished.run.results if result.seed == options.seeds[0])
        measured[name] = Measured(first, comparer(finished.outcomes, finished.dataset))
    found = PaperStudy(runs, findings(measured), speeds)
    if options.folder is not None:
        from dlmo.report.study_page import write_study

        write_study(options.folder, found)
    return found


def train_paper(
    data: str | Path | None,
    *,
    network: Sequence[str] = (),
    setup: Sequence[str] = (),
    options: Options | None = None,
    progress: Progress | None = None,
) -> TrainedOnly:
    """The training part of `study_paper`, for a machine without a runtime."""
    parts = _parts(data, network, setup, options or Options(time=None))
    done = [train_only(source, job, part, progress) for _, source, job, part in parts]
    return TrainedOnly(done[0].store, tuple(training for part in done for training in part.trainings))


def _parts(
    data: str | Path | None, network: Sequence[str], setup: Sequence[str], options: Options
) -> list[tuple[str, str, Job, Options]]:
    """Name, source, job and options of each data set's part."""
    from dlmo.data.cifar import CIFAR10, CIFAR100, find_release

    if options.target != "cpu":
        raise UserError(f"--target {options.target}: the paper's grid compares latencies of this machine; leave it out")
    chosen = [registry.canonical(name) for name in network] or list(published.NETWORKS)
    codes = [code for entry in setup for code in entry.split(",")] or list(published.SETUPS)
    unknown = [name for name in chosen if name not in published.NETWORKS]
    if unknown:
        raise UserError(f"the study has no network {unknown[0]}; it has {', '.join(published.NETWORKS)}")
    unknown = [code for code in codes if code not in published.SETUPS]
    if unknown:
        raise UserError(f'the study has no setup "{unknown[0]}"; it has {", ".join(published.SETUPS)}')
    for release in (CIFAR10, CIFAR100):  # a missing one is better known before a day of training
        find_release(release, None if data is None else str(data))
    if options.time is not None:
        options = replace(options, time=f"{parse_duration('--time', options.time) / len(published.DATASETS)}s")
    parts = []
    for name in published.DATASETS:
        source = name if data is None else f"{name}:{data}"
        part = options if options.folder is None else replace(options, out=options.folder / name)
        parts.append((name, source, study_job(source, chosen, codes, (), None, part), part))
    return parts


def speeds_of(finished: Finished, progress: Progress) -> "dict[str, Speed]":
    """What many test images take each file of a run, by its name."""
    from dlmo.measure.speed import MANY, measure_speed

    outcomes = finished.outcomes
    expected = MANY * sum(outcome.result.latency_ms for outcome in outcomes) / 1000
    with progress.stage(f"run {len(outcomes)} files on {MANY:,} images, one thread and all", 2 * expected) as update:
        found = measure_speed([outcome.content for outcome in outcomes], finished.dataset.test.images, update)
    return {outcome.result.artifact: speed for outcome, speed in zip(outcomes, found)}
