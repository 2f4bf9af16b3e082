"""The paper study's results: study.md, study.csv, report.html and the pictures they show."""

import csv
import io
import json
import re
from dataclasses import astuple, dataclass, fields
from importlib import resources
from pathlib import Path

import jinja2
import vl_convert
from markupsafe import Markup

from dlmo.atomic import write_atomically
from dlmo.measure.speed import Speed
from dlmo.report import wording
from dlmo.report.charts import scatter
from dlmo.strategy.paper import PaperStudy
from dlmo.study.published import Published, printed
from dlmo.study.results import Result, Run, csv_cell

HEADINGS = (
    "network",
    "data",
    "accuracy %",
    "published",
    "difference",
    "size KB",
    "size x NQ",
    "zip KB",
    "published KB",
    "latency ms",
    "latency x NQ",
    "published x NQ",
    "ms, all threads",
    "10,000 images s",
    "all threads s",
)


@dataclass(frozen=True)
class Line:
    """One row of a setup's table, as text, and whether our accuracy is below the published one."""

    cells: tuple[str, ...]
    below: bool


@dataclass(frozen=True)
class SetupTable:
    setup: str
    lines: tuple[Line, ...]


def write_study(out: Path, study: PaperStudy) -> None:
    """Write the comparison into `out`, beside the folders of the runs."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = _pictures(study)
    files = {
        "results.json": json.dumps(study.to_json(), indent=1, ensure_ascii=False) + "\n",  # first: dlmo's by it
        "study.csv": study_csv(study),
        "study.md": study_markdown(study, list(pictures)),
        "report.html": study_html(study, pictures),
    } | pictures
    for name, text in files.items():
        write_atomically(out / name, text.encode())


def setup_tables(study: PaperStudy) -> list[SetupTable]:
    """The study's own layout: a table per setup, a row per network and data set, ours beside theirs."""
    results = [(dataset, result) for dataset, run in study.runs.items() for result in run.results]
    setups = dict.fromkeys(result.setup for _, result in results)
    order = list(dict.fromkeys(result.network for _, result in results))
    tables = []
    for setup in setups:
        rows = [entry for entry in results if entry[1].setup == setup]
        rows.sort(key=lambda entry: order.index(entry[1].network))
        tables.append(SetupTable(setup, tuple(_line(study, dataset, result) for dataset, result in rows)))
    return tables


def study_csv(study: PaperStudy) -> str:
    """One line per result: results.csv's columns, the data set, and the published figures where there are any."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [entry.name for entry in fields(Result) if entry.name != "elsewhere"]  # this machine alone measures it
    speeds = [f"speed_{entry.name}" for entry in fields(Speed)]
    writer.writerow(["dataset", *names, *speeds, "published_accuracy", "published_size_kb", "published_latency_ms"])
    for dataset, run in study.runs.items():
        for result in run.results:
            theirs = printed(result.network, dataset, result.setup)
            figures = (theirs.accuracy, theirs.size_kb, theirs.latency_ms) if theirs else (None, None, None)
            speed = _speed(study, dataset, result)
            measured = [None] * len(speeds) if speed is None else astuple(speed)
            writer.writerow([dataset, *(csv_cell(getattr(result, name)) for name in names), *measured, *figures])
    return text.getvalue()


def study_markdown(study: PaperStudy, pictures: list[str]) -> str:
    return _render("study.md", study, pictures=pictures, escape=False)


def study_html(study: PaperStudy, pictures: dict[str, str]) -> str:
    css = resources.files("dlmo.report").joinpath("page.css").read_text("utf-8")
    drawn = [Markup(picture) for picture in pictures.values()]
    return _render("study.html", study, pictures=drawn, escape=True, css=Markup(css))


def _render(template: str, study: PaperStudy, *, pictures: list, escape: bool, **more: object) -> str:
    environment = jinja2.Environment(
        autoescape=escape, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = resources.files("dlmo.report").joinpath(template).read_text("utf-8")
    first = next(iter(study.runs.values()))
    return environment.from_string(text).render(
        study=study,
        first=first,
        tables=setup_tables(study),
        headings=HEADINGS,
        summary=_summary(study),
        schedules=_schedules(study),
        notes=_notes(study),
        pictures=pictures,
        wording=wording,
        **more,
    )


def _line(study: PaperStudy, dataset: str, result: Result) -> Line:
    theirs = printed(result.network, dataset, result.setup)
    ours_plain = _plain(study.runs[dataset], result)
    theirs_plain = printed(result.network, dataset, "NQ")
    difference = None if theirs is None else result.accuracy - theirs.accuracy
    several = len({other.seed for other in study.runs[dataset].results}) > 1
    cells = (
        f"{result.network}, seed {result.seed}" if several else result.network,
        dataset,
        f"{wording.percent(result.accuracy)} ({wording.interval(result)})",
        wording.percent(theirs.accuracy) if theirs else wording.NOT_KNOWN,
        wording.NOT_KNOWN if difference is None else f"{100 * difference:+.1f}",
        wording.kilobytes(result.size_bytes),
        f"{result.size_bytes / ours_plain.size_bytes:.2f}" if ours_plain else wording.NOT_KNOWN,
        wording.kilobytes(result.compressed_bytes),
        f"{theirs.size_kb:,g}" if theirs and theirs.size_kb else wording.NOT_KNOWN,
        wording.milliseconds(result.latency_ms),
        f"{result.latency_ms / ours_plain.latency_ms:.2f}" if ours_plain else wording.NOT_KNOWN,
        _published_ratio(theirs, theirs_plain),
        *_speed_cells(_speed(study, dataset, result)),
    )
    return Line(cells, difference is not None and difference < 0)


def _speed(study: PaperStudy, dataset: str, result: Result) -> Speed | None:
    return study.speeds.get(dataset, {}).get(result.artifact)


def _speed_cells(speed: Speed | None) -> tuple[str, str, str]:
    if speed is None:
        return (wording.NOT_KNOWN,) * 3
    return wording.milliseconds(speed.latency_all_ms), f"{speed.many_s:.3g}", f"{speed.many_all_s:.3g}"


def _plain(run: Run, result: Result) -> Result | None:
    return next((r for r in run.results if (r.network, r.setup, r.seed) == (result.network, "NQ", result.seed)), None)


def _published_ratio(theirs: Published | None, plain: Published | None) -> str:
    if theirs is None or plain is None or not theirs.latency_ms or not plain.latency_ms:
        return wording.NOT_KNOWN
    return f"{theirs.latency_ms / plain.latency_ms:.2f}"


def _summary(study: PaperStudy) -> str:
    """How many cells reach the published accuracy, in words."""
    compared = [
        (result.accuracy, theirs.accuracy)
        for dataset, run in study.runs.items()
        for result in run.results
        if (theirs := printed(result.network, dataset, result.setup)) is not None
    ]
    reached = sum(ours >= theirs for ours, theirs in compared)
    failed = sum(len(run.failures) for run in study.runs.values())
    said = f"{reached} of {len(compared)} results that the study also printed reach its accuracy"
    return f"{said}; {failed} recipes failed, see the notes" if failed else said


def _schedules(study: PaperStudy) -> list[str]:
    """How long each network was trained from scratch, without a teacher and with one, per data set."""
    found = []
    for dataset, run in study.runs.items():
        for result in run.results:
            if result.setup in ("NQ", "KD"):
                named = f"{dataset}, {result.network}, {result.setup}, seed {result.seed}"
                found.append(f"{named}: {result.epochs:g} epochs")
    return found


def _notes(study: PaperStudy) -> list[str]:
    """The recipes that failed, and the runs' notes; what only some runs say comes with the data set's name."""
    runs = study.runs
    failed = [f"{dataset}: failed: {wording.failed(entry)}" for dataset, run in runs.items() for entry in run.failures]
    shared = [note for note in next(iter(runs.values())).notes if all(note in run.notes for run in runs.values())]
    own = [f"{dataset}: {note}" for dataset, run in runs.items() for note in run.notes if note not in shared]
    return failed + shared + own


def _pictures(study: PaperStudy) -> dict[str, str]:
    """SVG by file name: accuracy against size and against latency, per data set."""
    found = {}
    for dataset, run in study.runs.items():
        for cost, title, unit in (("size_bytes", "file size in KB", 1000), ("latency_ms", "latency p50 in ms", 1)):
            spec = scatter(run, cost, f"{dataset}: {title}", unit)
            name = f"study-{dataset}-{cost.partition('_')[0]}.svg"
            found[name] = vl_convert.vegalite_to_svg(_with_colours(spec))
    return found


def _with_colours(spec: dict) -> dict:
    """The chart by itself: the page's light colours in place of its variables, and its own legends."""
    css = resources.files("dlmo.report").joinpath("page.css").read_text("utf-8")
    light = dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]+);", css[: css.index("@media")]))
    text = re.sub(r"var\((--[a-z-]+)\)", lambda match: light[match[1]], json.dumps(spec))
    drawn = json.loads(text.replace('"legend": null', '"legend": {"labelLimit": 0}'))
    # Browsers draw letters wider than the renderer measures them: room for the legend's longest line.
    padding = {"left": 5, "top": 5, "right": 40, "bottom": 5}
    return drawn | {"width": 640, "height": 340, "padding": padding, "background": "#ffffff"}
