"""A file's operators in a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlmo.measure.layers import Inspection, Operator
from dlmo.report import wording

_WORST = 5


def print_inspection(inspection: Inspection, console: Console) -> None:
    """All operators in order; before them the slowest and, with a comparison, the ones that add most error."""
    _say(console, inspection.model, "bold")
    inside = sum(operator.delegated for operator in inspection.operators)
    _say(
        console,
        f"{wording.kilobytes(inspection.size_bytes)} KB, operators: {len(inspection.operators)}, delegated: {inside} "
        f"in {inspection.partitions} partitions",
    )
    console.print()
    timing = inspection.timing
    if timing is not None:
        images = "one image" if timing.images == 1 else f"{timing.images} images at once"
        _say(console, f"{timing.whole_us / 1000:.3g} ms for {images}, threads: {timing.threads}; slowest:", "bold")
        for operator in inspection.slowest(_WORST):
            _say(console, f"- {operator.title}: {operator.latency_us:.1f} µs")
        console.print()
    comparison = inspection.comparison
    if comparison is not None:
        _say(
            console,
            f"Against {comparison.against}: the same answer on {comparison.agreeing} of {comparison.images} "
            f"validation images of {comparison.dataset}",
            "bold",
        )
        for operator in inspection.worst(_WORST):
            _say(console, f"- {operator.title} adds {share(operator.added)} % error ({decibels(operator)} dB)")
        unmatched = inspection.unmatched()
        if unmatched:
            titles = ", ".join(operator.title for operator in unmatched)
            _say(console, f"- not compared, no such operator there: {titles}")
        console.print()
    console.print(operators_table(inspection))
    _say(console, _legend(comparison is not None, timing is not None), "dim")


def operators_table(inspection: Inspection) -> Table:
    """One row per operator, in the order of execution."""
    compared, timed = inspection.comparison is not None, inspection.timing is not None
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("operator", overflow="fold")
    table.add_column("output", overflow="fold")
    table.add_column("types", overflow="fold")
    table.add_column("weights\nKB", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    table.add_column("XN", justify="center", no_wrap=True)
    if timed:
        table.add_column("latency\nµs", justify="right", no_wrap=True)
    if compared:
        table.add_column("SNR\ndB", justify="right", no_wrap=True)
        table.add_column("added\n%", justify="right", no_wrap=True)
    for operator in inspection.operators:
        table.add_row(
            str(operator.index),
            Text(operator.name),
            "x".join(map(str, operator.output)) or "number",
            types(operator),
            wording.kilobytes(operator.weight_bytes) if operator.weight_bytes else "",
            wording.count(operator.macs) if operator.macs else "",
            "x" if operator.delegated else "",
            *((f"{operator.latency_us:.1f}",) if timed else ()),
            *((decibels(operator), share(operator.added)) if compared else ()),
        )
    return table


def types(operator: Operator) -> str:
    """int8, or float32 (int8 weights), or float32 > int8"""
    changed = operator.input_type and operator.input_type != operator.output_type
    words = f"{operator.input_type} > {operator.output_type}" if changed else operator.output_type
    other_weights = operator.weight_type not in ("", operator.input_type)
    return f"{words} ({operator.weight_type} weights)" if other_weights else words


def _legend(compared: bool, timed: bool) -> str:
    lines = ["weights: constants the operator reads; XN: run by the delegate, XNNPACK"]
    if timed:
        lines.append("latency: of the graph up to the operator, less that of the graph before it; what")
        lines.append("XNNPACK computes in one (PAD and what follows it) stands at one of them")
    if compared:
        lines.append("SNR: power of the float file's output over that of the difference; = nothing differs")
        lines.append("added: difference as a share of the output's power, less that of the worst input")
    return "\n".join(lines)


def decibels(operator: Operator) -> str:
    """38.2; = where nothing differs, empty where nothing was compared."""
    if operator.error is None:
        return ""
    return "=" if operator.decibels is None else f"{operator.decibels:.1f}"


def share(value: float | None) -> str:
    """A share of the output's power in percent: 0.015"""
    return "" if value is None else f"{value * 100:.3f}"


def _say(console: Console, text: str, style: str = "") -> None:
    # Text, not str: names from a file must not be read as markup, numbers not be coloured.
    console.print(Text(text, style=style, overflow="fold"))
