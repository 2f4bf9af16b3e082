"""The reference study's whole grid: its networks, its setups, both data sets, ours beside theirs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dlmo import networks as registry
from dlmo.errors import UserError
from dlmo.progress import Progress
from dlmo.strategy.budget import parse_duration
from dlmo.strategy.findings import Finding, Measured, findings
from dlmo.strategy.job import Options, run_job
from dlmo.strategy.study import study_job
from dlmo.study import published
from dlmo.study.results import Run
from dlmo.study.run import comparer


@dataclass(frozen=True)
class PaperStudy:
    """runs: by data set name. findings: the study's claims, tested on these runs."""

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
    network: Sequence[str] = (),
    setup: Sequence[str] = (),
    options: Options | None = None,
    progress: Progress | None = None,
) -> PaperStudy:
    """Run the study's grid, or the named part of it, on CIFAR-10 and CIFAR-100.

    data: folder with the official files of both, None for $DLMO_DATA. options.time is for both data sets together;
    with options.out each data set's run is written to a folder of its name, the comparison beside them.
    """
    from dlmo.data.cifar import CIFAR10, CIFAR100, find_release

    options = options or Options(time=None)
    if options.targets != ("cpu",):
        named = " ".join(options.targets)
        raise UserError(f"--target {named}: the paper's grid compares latencies of this machine; leave it out")
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
    runs: dict[str, Run] = {}
    measured: dict[str, Measured] = {}
    for name in published.DATASETS:
        source = name if data is None else f"{name}:{data}"
        part = options if options.folder is None else replace(options, out=options.folder / name)
        finished = run_job(source, study_job(source, chosen, codes, (), None, part), part, progress)
        runs[name] = finished.run
        first = tuple(result for result in finished.run.results if result.seed == options.seeds[0])
        measured[name] = Measured(first, comparer(finished.outcomes, finished.dataset))
    found = PaperStudy(runs, findings(measured))
    if options.folder is not None:
        from dlmo.report.study_page import write_study

        write_study(options.folder, found)
    return found
