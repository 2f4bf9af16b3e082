"""One self-contained HTML page about a run: no file beside it, no network."""

import base64
import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import resources

import jinja2
import vl_convert
from markupsafe import Markup

from dlmo.report import layers, wording
from dlmo.report.charts import charts, curve_legend, scatter_legend
from dlmo.report.confusions import mixups, recalls
from dlmo.study.results import Mistake, Result, Run


@dataclass(frozen=True)
class Cell:
    """A table cell: what is shown and the number or text that sorting goes by."""

    text: str
    key: float | str
    kind: str = "number"


@dataclass(frozen=True)
class Bar:
    """Test accuracy as a dot on its interval; positions in percent of the column's width."""

    low: float
    width: float
    dot: float


@dataclass(frozen=True)
class Row:
    """A line of the results table."""

    result: Result
    chosen: bool
    front: bool
    accuracy: Cell
    bar: Bar
    cells: tuple[Cell, ...]


COLUMNS = (
    ("validation", "% right on validation images; what choices are made on"),
    ("size KB", "the .tflite file"),
    ("zip KB", "the same file compressed"),
    ("p50 ms", "latency of one image, median"),
    ("p90 ms", "latency of one image, 90 % are faster"),
    ("RAM KB", "memory to run it; see below how it was got"),
    ("delegated", "share of the graph's nodes run by the accelerated kernels, in how many parts"),
    ("float ops", "computing operators of an int8 file that stayed in float"),
    ("zeros", "share of zeros among the prunable weights"),
    ("parameters", ""),
    ("MACs", "multiply-adds per image"),
    ("epochs", "of all stages"),
    ("training", "time of all stages; shared ones count in full"),
    ("seed", ""),
)


def render(run: Run) -> str:
    """The page as one string."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    drawn = charts(run)
    return environment.from_string(_text("page.html")).render(
        run=run,
        wording=wording,
        layer_words=layers,
        css=Markup(_text("page.css")),
        rows=_rows(run),
        columns=_columns(run),
        several_seeds=wording.several_seeds(run),
        described=wording.described(run),
        extremes=_extremes(run),
        recalls=recalls(run),
        mixups=mixups(run, 10),
        mistakes=[(mistake, _data_uri(mistake)) for mistake in run.mistakes],
        sources=_sources(run),
        charts=drawn,
        scatter_legend=scatter_legend(run),
        curve_legend=curve_legend(run),
        charts_json=Markup(_script_json(drawn)),
        vega=Markup(_vega()) if drawn else Markup(""),
    )


def _text(name: str) -> str:
    return resources.files("dlmo.report").joinpath(name).read_text("utf-8")


@cache  # bundling takes seconds
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script without imports."""
    return vl_convert.javascript_bundle().replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data_uri(mistake: Mistake) -> str:
    return "data:image/png;base64," + base64.b64encode(mistake.png).decode("ascii")


def _columns(run: Run) -> tuple[tuple[str, str], ...]:
    """Names and titles: of COLUMNS, of latencies with other numbers of threads and of further targets'."""
    by_threads = [
        (f"p50 ms, {wording.threads(int(count))}", f"median latency on {run.target}")
        for count in wording.latencies_by_threads(run)
    ]
    further = [
        (f"{quantile} ms on {name}", f"latency of one image on {name}")
        for name in run.further_targets
        for quantile in ("p50", "p90")
    ]
    return (*COLUMNS, *by_threads, *further)


def _rows(run: Run) -> list[Row]:
    front = wording.best_trades(run)
    chosen = run.choice.result if run.choice else None
    lowest = min((result.accuracy_low for result in run.results), default=0.0)
    highest = max((result.accuracy_high for result in run.results), default=1.0)
    spread = highest - lowest or 1.0
    counts = wording.latencies_by_threads(run)
    return [
        Row(
            result=result,
            chosen=result == chosen,
            front=result in front,
            accuracy=Cell(wording.percent(result.accuracy), result.accuracy),
            bar=Bar(
                low=round((result.accuracy_low - lowest) / spread * 100, 1),
                width=round((result.accuracy_high - result.accuracy_low) / spread * 100, 1),
                dot=round((result.accuracy - lowest) / spread * 100, 1),
            ),
            cells=_cells(result) + _more_cells(result, counts),
        )
        for result in wording.by_network(run)
    ]


def _cells(result: Result) -> tuple[Cell, ...]:
    """In the order of COLUMNS."""
    ram_guessed = "~" if result.ram_source.startswith("estimate") and result.ram_bytes is not None else ""
    floats = ", ".join(result.float_operators)
    delegated = f"{result.delegated * 100:.0f} % in {result.partitions}" if result.partitions else "none"
    return (
        Cell(wording.percent(result.validation_accuracy), result.validation_accuracy),
        Cell(wording.kilobytes(result.size_bytes), result.size_bytes),
        Cell(wording.kilobytes(result.compressed_bytes), result.compressed_bytes),
        _latency_cell(result.latency_ms, result.latency_source),
        _latency_cell(result.latency_p90_ms, result.latency_source),
        Cell(ram_guessed + wording.kilobytes(result.ram_bytes), _sortable(result.ram_bytes)),
        Cell(delegated, result.delegated),
        Cell(floats or "none", floats, kind="words"),
        Cell(f"{result.sparsity * 100:.0f} %", result.sparsity),
        Cell(wording.count(result.parameters), result.parameters),
        Cell(wording.count(result.macs), result.macs),
        Cell(f"{result.epochs:g}", result.epochs),
        Cell(wording.duration(result.seconds), result.seconds),
        Cell(str(result.seed), result.seed),
    )


def _more_cells(result: Result, counts: list[str]) -> tuple[Cell, ...]:
    """In the order of what _columns adds."""
    latencies = [(result.latency_by_threads[count], result.latency_source) for count in counts]
    for there in result.elsewhere.values():
        latencies += [(value, there.latency_source) for value in (there.latency_ms, there.latency_p90_ms)]
    return tuple(_latency_cell(value, source) for value, source in latencies)


def _latency_cell(value: float | None, source: str) -> Cell:
    guessed = "" if source == "measured" or value is None else "~"
    return Cell(guessed + wording.milliseconds(value), _sortable(value))


def _sortable(value: float | None) -> float:
    """Unknown numbers go last."""
    return 1e300 if value is None or not math.isfinite(value) else value


def _extremes(run: Run) -> list[tuple[str, Result]]:
    """What a run without a choice is summed up by."""
    if not run.results:
        return []
    timed = [result for result in run.results if wording.is_known(result.latency_ms)]
    found = [
        ("most accurate on validation images", wording.described(run)),
        ("smallest", min(run.results, key=lambda result: result.size_bytes)),
    ]
    return found + ([("fastest", min(timed, key=lambda result: result.latency_ms))] if timed else [])


def _sources(run: Run) -> list[tuple[str, str]]:
    """How each number was got."""
    if not run.results:
        return []
    counts = {result.validation_images: wording.validation_images(run, result) for result in run.results}
    validation = " or ".join(words for _, words in sorted(counts.items()))
    return [
        (
            "accuracy",
            f"{wording.source(run, 'accuracy_source')}: the .tflite file run on {wording.test_images(run)} test "
            "images, with its 95 % Wilson interval",
        ),
        (
            "validation accuracy",
            f"measured on validation images ({validation}); all choices are made on it"
            + ("" if len(counts) == 1 else ", and where fewer images were asked, on what all of them should give"),
        ),
        ("size", f"measured: bytes of the file, and the same compressed; 1 KB = {wording.KB:,} bytes"),
        (
            "latency",
            f"{wording.source(run, 'latency_source')}: one image at a time, {wording.thread_counts(run)}, "
            "files taking turns so that a slow moment hits all alike"
            if "measured" in {result.latency_source for result in run.results}
            else wording.source(run, "latency_source"),
        ),
        (
            "RAM",
            f"{wording.source(run, 'ram_source')}: growth of a process's peak memory by loading and running"
            if "measured" in {result.ram_source for result in run.results}
            else wording.source(run, "ram_source"),
        ),
        ("parameters, MACs, operators", "counted"),
        ("delegated", "counted in the graph the runtime really runs"),
    ]
