"""The comparison with the published tables, from a real small run."""

import csv
import io

import pytest

from dlmo.measure import speed
from dlmo.progress import SilentProgress
from dlmo.report.study_page import setup_tables, study_csv, write_study
from dlmo.strategy.findings import Measured, findings
from dlmo.strategy.job import run_job
from dlmo.strategy.options import Options
from dlmo.strategy.paper import PaperStudy, speeds_of
from dlmo.strategy.study import study_job
from dlmo.study.published import published
from dlmo.study.run import comparer


@pytest.fixture(scope="module")
def paper(shared_store):
    """vgg on digits in the place of CIFAR-10: the pages only see a data set's name."""
    options = Options(epochs=1, store=shared_store)
    finished = run_job("digits", study_job("digits", ["vgg"], ["NQ", "FIQ"], (), None, options), options, None)
    run = finished.run
    measured = {"cifar10": Measured(run.results, comparer(finished.outcomes, finished.workspace.dataset))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "MANY", 100)
        speeds = {"cifar10": speeds_of(finished, SilentProgress())}
    return PaperStudy("paper", "The study", {"cifar10": run}, findings(measured), speeds)


def test_ours_stand_beside_theirs(paper):
    (plain, full) = setup_tables(paper)
    assert (plain.setup, full.setup) == ("NQ", "FIQ")
    cells = full.lines[0].cells
    theirs = published()["vgg", "cifar10", "FIQ"]
    ours = next(result for result in paper.runs["cifar10"].results if result.setup == "FIQ")
    assert cells[3] == f"{100 * theirs.accuracy:.1f}"
    assert cells[4] == f"{100 * (ours.accuracy - theirs.accuracy):+.1f}"
    assert full.lines[0].below == (ours.accuracy < theirs.accuracy)


def test_csv_has_the_published_figure_in_every_line(paper):
    rows = list(csv.DictReader(io.StringIO(study_csv(paper))))
    assert [row["setup"] for row in rows] == ["NQ", "FIQ"]
    assert float(rows[0]["published_accuracy"]) == published()["vgg", "cifar10", "NQ"].accuracy
    assert {row["dataset"] for row in rows} == {"cifar10"}


def test_speed_on_many_images_and_all_threads_stands_in_table_and_csv(paper):
    (plain, _) = setup_tables(paper)
    result = next(result for result in paper.runs["cifar10"].results if result.setup == "NQ")
    measured = paper.speeds["cifar10"][result.artifact]
    assert [float(cell) for cell in plain.lines[0].cells[-2:]] == pytest.approx(
        [measured.many_s, measured.many_all_s], rel=0.01
    )
    row = next(csv.DictReader(io.StringIO(study_csv(paper))))
    assert float(row["speed_many_s"]) == measured.many_s and int(row["speed_threads"]) == measured.threads
    assert float(row["published_accuracy"]) == published()["vgg", "cifar10", "NQ"].accuracy


def test_all_files_are_written_and_name_every_finding(paper, tmp_path):
    write_study(tmp_path, paper)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"study.md", "study.csv", "report.html", "results.json", "study-cifar10-size.svg"} <= names
    for name in ("study.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert all(finding.claim in text for finding in paper.findings)
    assert "var(--" not in (tmp_path / "study-cifar10-size.svg").read_text()
    assert "src=" not in (tmp_path / "report.html").read_text()
