"""The reference study's grids: its networks, its setups, its data sets, ours beside theirs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlmo import networks as registry
from dlmo.errors import UserError
from dlmo.progress import Progress
from dlmo.strategy.budget import parse_duration
from dlmo.strategy.findings import Finding, Measured, findings, findings_on_teaching
from dlmo.strategy.job import Options, run_job
from dlmo.strategy.study import study_job
from dlmo.study import published
from dlmo.study.results import Run
from dlmo.study.run import comparer


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
    """name, title: of its grid. runs: by data set name. findings: the study's claims, tested on these runs."""

    name: str
    title: str
    runs: dict[str, Run]
    findings: tuple[Finding, ...]

    def to_json(self) -> dict:
        return {
            "runs": {name: run.to_json() for name, run in self.runs.items()},
            "findings": [
                {"claim": f.claim, "verdict": f.verdict, "cases": [vars(case) for case in f.cases]}
                for f in self.findings
            ],
        }


def study_paper(
    data: str | Path | None,
    *,
    name: str = "paper",
    network: Sequence[str] = (),
    setup: Sequence[str] = (),
    kd: str = "kd",
    options: Options | None = None,
    progress: Progress | None = None,
) -> PaperStudy:
    """Run one of the study's grids, or the named part of it.

    data: folder with the official files of its data sets, None for $DLMO_DATA. name: see GRIDS. kd: what KD stands
    for in setups. options.time is for all data sets together; with options.out each data set's run is written to a
    folder of its name, the comparison beside them.
    """
    from dlmo.data.cifar import CIFAR10, CIFAR100, find_release

    grid = GRIDS[name]
    options = options or Options(time=None)
    if options.target != "cpu":
        raise UserError(f"--target {options.target}: the paper's grid compares latencies of this machine; leave it out")
    chosen = [registry.canonical(entry) for entry in network] or list(grid.networks)
    codes = [code for entry in setup for code in entry.split(",")] or list(grid.setups)
    known = (*grid.always, *grid.setups)
    unknown = [entry for entry in chosen if entry not in grid.networks]
    if unknown:
        raise UserError(f"{name}: the study has no network {unknown[0]}; it has {', '.join(grid.networks)}")
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise UserError(f'{name}: the study has no setup "{unknown[0]}"; it has {", ".join(known)}')
    for release in (CIFAR10, CIFAR100):  # a missing one is better known before a day of training
        if release.name in grid.datasets:
            find_release(release, None if data is None else str(data))
    if options.time is not None:
        options = replace(options, time=f"{parse_duration('--time', options.time) / len(grid.datasets)}s")
    runs: dict[str, Run] = {}
    measured: dict[str, Measured] = {}
    setups = list(dict.fromkeys((*grid.always, *codes)))
    for dataset in grid.datasets:
        source = dataset if data is None else f"{dataset}:{data}"
        part = options if options.folder is None else replace(options, out=options.folder / dataset)
        finished = run_job(source, study_job(source, chosen, setups, (), None, part, kd), part, progress)
        runs[dataset] = finished.run
        compare = comparer(finished.outcomes, finished.dataset)
        for seed in options.seeds:
            label = dataset if len(options.seeds) == 1 else f"{dataset}, seed {seed}"
            results = tuple(result for result in finished.run.results if result.seed == seed)
            measured[label] = Measured(results, compare)
    found = PaperStudy(name, grid.title, runs, grid.findings(measured))
    if options.folder is not None:
        from dlmo.report.study_page import write_study

        write_study(options.folder, found)
    return found
