"""Results in a terminal, readable in 80 columns and as plain text in a file."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlmo.report import wording
from dlmo.study.results import Choice, Result, Run, Rung, StepWorth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dlmo.measure.device.readiness import Readiness
    from dlmo.measure.evaluate import Evaluation
    from dlmo.measure.targets import Measured
    from dlmo.strategy.findings import Finding
    from dlmo.strategy.train_only import TrainedOnly

CHOSEN = ">"  # plain characters: they survive every terminal, font and log file
FRONT = "*"
FAILED = "!"
_PAID = {"yes": "paid", "no": "did not pay", "at a loss": "paid at a loss"}
_NETWORK_WIDTH = 20  # of 80 columns, where names and figures need more than there is


def print_trained(found: TrainedOnly, console: Console) -> None:
    """Every training with its accuracy, and how to go on."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("training", overflow="fold")
    for title in ("seed", "epochs", "seconds", "validation %"):
        table.add_column(title, justify="right")
    for t in found.trainings:
        numbers = str(t.seed), f"{t.epochs:g}", f"{t.seconds:.0f}", wording.percent(t.validation_accuracy)
        table.add_row(Text(f"{t.dataset}: {t.name}"), *numbers)
    console.print(table)
    for failure in found.failures:
        _say(console, f"{FAILED} {wording.failed(failure)}")
    done = "All else is" if found.failures else "All is"
    _say(
        console,
        f"\n{done} trained, in {found.store}. Copy that folder to the machine that measures, set DLMO_STORE to the "
        "copy there, and give the same command without --train-only.",
    )


def print_run(run: Run, console: Console) -> None:
    """Data set, results, what they rest on, and the choice with its reasons or why there is none."""
    _say(console, run.title, "bold")
    _say(console, ", ".join(wording.dataset_facts(run)))
    if run.budget:
        _say(console, f"limits: {', '.join(f'{name} {value}' for name, value in wording.facts(run.budget))}")
    if run.results:
        console.print()
        console.print(results_table(run), crop=False)  # a line that is too long is better than a number cut short
        _say(console, _legend(run), "dim")
    if over_seeds := wording.over_seeds(run):
        _heading(console, "Over the seeds")
        _print_list(console, tuple(over_seeds))
    if run.failures:
        _heading(console, "Failed", "bold red")
        _print_list(console, tuple(wording.failed(failure) for failure in run.failures))
    if run.choice:
        _print_choice(run.choice, run.target, console)
    if run.nearest:
        beside_a_choice = "Smaller, but less accurate than allowed"
        _heading(console, beside_a_choice if run.choice else "Nothing met the limits; nearest")
        _print_list(console, run.nearest)
    if run.search:
        _heading(console, "Search")
        _say(console, wording.search_words(run.search))
    if run.notes:
        _heading(console, "Notes")
        _print_list(console, run.notes)


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """The study's claims and what became of them here."""
    _heading(console, "The study's findings, measured here")
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(finding.claim, finding.verdict)
    console.print(table)


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Facts and measurements of one file."""
    ram = "not known" if evaluation.ram_bytes is None else f"{wording.kilobytes(evaluation.ram_bytes)} KB"
    lines = {
        "accuracy": f"{wording.percent(evaluation.accuracy)} % (95 % interval {wording.interval(evaluation)} %, "
        f"n = {evaluation.images:,}{',' * (evaluation.split == 'all')} {evaluation.split} images of "
        f"{evaluation.dataset})",
        "size": f"{wording.kilobytes(evaluation.size_bytes)} KB "
        f"({wording.kilobytes(evaluation.compressed_bytes)} KB zipped; 1 KB = {wording.KB:,} bytes)",
        "latency": f"{wording.milliseconds(evaluation.latency_ms)} ms p50, "
        f"{wording.milliseconds(evaluation.latency_p90_ms)} ms p90, one image, {wording.threads(evaluation.threads)}",
        "RAM": f"{ram} (growth of peak memory by loading and running)",
        "parameters": wording.count(evaluation.parameters),
        "MACs": f"{wording.count(evaluation.macs)} per image",
        "delegated": f"{evaluation.delegated * 100:.0f} % of nodes, partitions: {evaluation.partitions}",
        "operators": ", ".join(f"{name} {number}" for name, number in evaluation.operators.items()),
        "in float": ", ".join(evaluation.float_operators),
        "input": f"{wording.input_shape({'input': evaluation.input})} {evaluation.input_dtype}, {evaluation.layout}"
        + (", bgr" if evaluation.channel_order == "bgr" else ""),
        "fed": f"{evaluation.normalization} (from: {evaluation.normalization_source})",
        "outputs": f"{evaluation.output_dtype}, named by {evaluation.labels_source}",
        "machine": wording.machine_words(evaluation.machine),
        "note": "\n".join(evaluation.notes),
    }
    _say(console, evaluation.model, "bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines.items():
        if text:
            table.add_row(name, Text(text))
    console.print(table)


def print_readiness(found: Readiness, console: Console) -> None:
    """What a device has, line by line."""
    facts = found.facts
    runtime = f"{facts['runtime']} {facts['runtime_version']}" if facts["runtime"] else "none that can be loaded"
    lines = {
        "processor": f"{facts['cpu']}, {facts['cores']} cores, {facts['architecture']}, {facts['bits']} bit"
        + (f", {facts['instructions']}" if facts["instructions"] else ""),
        "system": facts["system"],
        "Python": f"{facts['python']}, {facts['executable']}",
        "numpy": facts["numpy"] or "none",
        "runtime": "; ".join([runtime, *facts["broken"]]),
        "memory": wording.megabytes(facts["memory_bytes"], facts["memory_available_bytes"]),
        "disk": f"{facts['free_disk_bytes'] / 1e6:,.0f} MB free in {facts['folder']}",
        "temperature": f"{facts['temperature_c']:.1f} C" if wording.is_known(facts["temperature_c"]) else "not told",
        "clock": f"{facts['clock_mhz']:,.0f} MHz" if wording.is_known(facts["clock_mhz"]) else "not told",
        "slowed by": ", ".join(facts["limits"]) or "nothing that the system tells of",
        "load": f"{facts['load']:.2f} processes on average of the last minute",
    }
    _say(console, found.target, "bold")
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in lines.items():
        table.add_row(name, Text(text))
    console.print(table)
    if found.usable:
        _say(console, f"ready: --target {shlex.quote(found.target)}", "bold green")


def results_table(run: Run) -> Table:
    """What was tried and what came out; chosen and Pareto rows marked."""
    results = wording.by_network(run)
    front = wording.best_trades(run)
    chosen = run.choice.result if run.choice else None
    several_seeds = wording.several_seeds(run)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("network", overflow="fold", width=min(_NETWORK_WIDTH, max(len("network"), _longest(results))))
    table.add_column("setup", overflow="fold", min_width=10)
    if several_seeds:
        table.add_column("seed", justify="right", no_wrap=True)
    table.add_column("size\nKB", justify="right", no_wrap=True)
    choosing = _shows_validation(run)
    if choosing:
        table.add_column("valid.\n%", justify="right", no_wrap=True)
    table.add_column("accuracy %\n(95 % interval)", justify="right", no_wrap=True)
    by_latency = wording.running_cost(run) == "latency_ms"
    arena = any(result.arena_head is not None for result in results)
    running = "latency\nms p50" if by_latency else "arena\nKB" if arena else "RAM\nKB"
    table.add_column(running, justify="right", no_wrap=True)
    for number, _ in enumerate(run.further_targets, 2):
        table.add_column(f"on {number}\nms p50", justify="right", no_wrap=True)
    for position, result in enumerate(results):
        same_network = position > 0 and results[position - 1].network == result.network
        mark = CHOSEN if result == chosen else FRONT if result in front else ""
        table.add_row(
            mark,
            Text(_folded(result.network), style="dim" if same_network else ""),
            _setup(result),
            *([str(result.seed)] if several_seeds else []),
            wording.kilobytes(result.size_bytes),
            *([wording.percent(result.validation_accuracy)] if choosing else []),
            f"{wording.percent(result.accuracy)} ({wording.interval(result)})",
            _latency(result) if by_latency else wording.kilobytes(result.ram_bytes),
            *(_latency(there) for there in result.elsewhere.values()),
            style="bold green" if result == chosen else None,
        )
    for failure in run.failures:
        seed = [str(failure.seed)] if several_seeds else []
        unknown = [""] * (2 if choosing else 1)
        table.add_row(FAILED, Text(failure.network), Text(failure.setup), *seed, *unknown, "failed", "", style="red")
    return table


def _shows_validation(run: Run) -> bool:
    """Where a choice was made, and latencies on further targets leave the room."""
    return bool(run.budget) and not run.further_targets


def _folded(network: str) -> str:
    """A long name in two lines, before its width or its stem, rather than in the middle of a word."""
    if len(network) <= _NETWORK_WIDTH:
        return network
    ends = [position for position, letter in enumerate(network[: _NETWORK_WIDTH + 1]) if letter in "@:"]
    return f"{network[: ends[-1]]}\n{network[ends[-1] :]}" if ends else network


def _longest(results: list[Result]) -> int:
    return max((len(result.network) for result in results), default=0)


def _setup(result: Result) -> Text:
    """The code, and the steps too where their values differ from the setup's."""
    steps = wording.steps(result)
    return Text(f"{result.setup}: {steps}" if "(" in steps else result.setup)


def _latency(result: Result | Measured) -> str:
    mark = "" if result.latency_source == "measured" or result.latency_ms is None else "~"
    return mark + wording.milliseconds(result.latency_ms)


def _legend(run: Run) -> str:
    chosen = f"{CHOSEN} chosen   " if run.choice else ""
    cost = wording.running_cost(run)
    running = "latency" if cost == "latency_ms" else "RAM"
    lines = [
        *([f"{FAILED} failed: see below"] if run.failures else []),
        f"{chosen}{FRONT} best trade: nothing {wording.compared(run)} beats both its accuracy on",
        f"  validation images and its size, or both that accuracy and its {running}",
        f"size: the .tflite file, 1 KB = {wording.KB:,} bytes; accuracy: on {wording.test_images(run)} test images",
        *(_validation_legend(run) if _shows_validation(run) else []),
        _running_legend(run, cost),
        *(f"device: {words}" for words in wording.devices(run)),
        *(
            f"on {number}: {'; '.join([name, wording.source(there, 'latency_source'), *wording.devices(there)])}"
            for number, (name, there) in enumerate(wording.elsewhere(run), 2)
        ),
        f"machine: {wording.machine_words(run.machine)}",
    ]
    return "\n".join(lines)


def _validation_legend(run: Run) -> list[str]:
    lines = ["valid.: accuracy on validation images, which choices are made on"]
    numbers = sorted({result.validation_images for result in run.results})
    if len(numbers) > 1:
        words = " or ".join(f"{number:,}" for number in numbers)
        lines.append(f"  (of {words} images, most where a file was looked at again: compare like with like)")
    return lines


def _running_legend(run: Run, cost: str) -> str:
    if cost == "ram_bytes":
        return f"RAM: {wording.source(run, 'ram_source')}, target {run.target}; no latency is told"
    estimated = any(result.latency_source != "measured" for result in run.results)
    return (
        f"latency: one image, {wording.thread_counts(run)}, target {run.target}, "
        f"{wording.source(run, 'latency_source')}{'; ~ not measured' if estimated else ''}"
    )


def _print_choice(choice: Choice, target: str, console: Console) -> None:
    result = choice.result
    _heading(console, f"Chosen: {result.recipe}", "bold green")
    _say(
        console,
        f"{wording.kilobytes(result.size_bytes)} KB ({wording.kilobytes(result.compressed_bytes)} KB zipped), "
        f"{wording.percent(result.accuracy)} % right (95 %: {wording.interval(result)}, "
        f"n = {result.test_images:,}){_choice_latency(result, target)}{_choice_memory(result)}"
        + "".join(f"; on {name} {wording.latency_words(there)}" for name, there in result.elsewhere.items()),
    )
    _print_list(console, choice.reasons)
    if choice.waterfall:
        _heading(console, "Step by step")
        console.print(_waterfall_table(choice.waterfall))
        _say(console, "paid: against the row above, a smaller file, less latency or RAM, or better answers", "dim")
    if choice.worth:
        _heading(console, "What each step was worth")
        _say(console, "the chosen recipe against the same recipe without the step, accuracy on test images", "dim")
        console.print(_worth_table(choice.worth))
    if choice.advice:
        _heading(console, "The study's advice")
        _say(console, choice.advice)


def _choice_latency(result: Result, target: str) -> str:
    if result.latency_ms is None:
        return ""
    return (
        f", {wording.latency_words(result)} ({wording.threads(result.threads)}, {target}"
        f"{'' if result.latency_source == 'measured' else f', {result.latency_source}'})"
        + ("" if result.cycles is None else f", {result.delegated * 100:.0f} % of operators on the NPU")
        + (f", {by_threads}" if (by_threads := wording.thread_latencies(result)) else "")
    )


def _choice_memory(result: Result) -> str:
    """RAM, with its parts where it is an arena, and flash; each with how it was got."""
    words = ""
    if result.ram_bytes is not None:
        parts = "" if result.arena_head is None else f"{wording.ram_words(result)}; "
        words += f", {wording.kilobytes(result.ram_bytes)} KB RAM ({parts}{result.ram_source})"
    if result.flash_bytes is not None:
        words += f", {wording.kilobytes(result.flash_bytes)} KB flash ({result.flash_source})"
    return words


def _waterfall_table(rungs: tuple[Rung, ...]) -> Table:
    """The way from the plain network to the chosen file."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("step", overflow="fold", min_width=10)
    by_latency = any(rung.latency_ms is not None for rung in rungs)
    for heading in ("size\nKB", "latency\nms p50" if by_latency else "RAM\nKB", "validation\n%", "test\n%"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("paid", no_wrap=True)
    for rung in rungs:
        table.add_row(
            Text(rung.step),
            wording.kilobytes(rung.size_bytes),
            wording.milliseconds(rung.latency_ms) if by_latency else wording.kilobytes(rung.ram_bytes),
            wording.percent(rung.validation_accuracy),
            wording.percent(rung.accuracy),
            wording.paid(rung),
        )
    return table


def _worth_table(worth: tuple[StepWorth, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("step", overflow="fold", min_width=10)
    table.add_column("accuracy\npoints", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    by_latency = any(step.latency_ratio is not None for step in worth)
    table.add_column("latency" if by_latency else "RAM", justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for step in worth:
        table.add_row(
            Text(step.step),
            wording.points(step.gain),
            wording.ratio(step.size_ratio),
            wording.ratio(step.latency_ratio if by_latency else step.ram_ratio),
            Text(f"{_PAID[wording.paid(step)]}: {step.verdict}"),
        )
    return table


def _print_list(console: Console, lines: tuple[str, ...]) -> None:
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        table.add_row("-", Text(line))
    console.print(table)


def _heading(console: Console, text: str, style: str = "bold") -> None:
    console.print()
    _say(console, text, style)


def _say(console: Console, text: str, style: str = "") -> None:
    # Text, not str: names from users must not be read as markup, numbers not be coloured.
    console.print(Text(text, style=style, overflow="fold"))
