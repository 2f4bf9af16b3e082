"""The model card: what the chosen file is, how good it is, and what it must not be taken for."""

import re

from dlmo.report import wording
from dlmo.report.confusions import recalls
from dlmo.study.results import Result, Run

FILES = (
    ("model.tflite", "the model"),
    ("labels.txt", "class names, one per line, in the order of the model's outputs"),
    ("preprocessing.json", "how an image becomes the model's input"),
    ("golden/", "inputs and the outputs expected for them, to check a device against"),
    ("model_card.md", "this text"),
    ("README.md", "the other files, and how to run the model"),
)

PRECISIONS = {
    "float32": "Weights and activations are 32-bit floats; input and output too.",
    "float16": "Weights are stored as 16-bit floats; input and output are 32-bit floats.",
    "dynamic_int8": "Weights are 8-bit integers; activations, input and output are floats.",
    "int8": "Weights, activations, input and output are 8-bit integers; the file holds their scales.",
    "mixed": "8-bit integers, input and output too; some layers have 4-bit weights, or compute in floats.",
}


def model_card(run: Run) -> str:
    """The card as markdown, of the chosen file; without a choice of the most accurate one, and it says so."""
    sections = [f"# {_plain(run.title)}"]
    result = wording.described(run)
    if run.choice is None:
        sections.append(_unchosen(run))
    if result is not None:
        reasons = _list(run.choice.reasons) if run.choice else ""
        sections += [
            _what(run, result),
            _section("Intended input", _list(_input_lines(run))),
            _section("Recipe", f"`{result.recipe}`\n\n{reasons}".strip()),
            _section("Numbers", _numbers(run, result)),
            _section("Recall per class, worst first", _recall_table(run)),
            _section("Limits", _list(_limits(run, result))),
        ]
    command = run.dataset.get("command")
    sections.append(_section("How to reproduce", f"```sh\n{command}\n```" if command else ""))
    if result is not None:
        sections.append(_section("Files", _list([f"`{name}`: {text}" for name, text in FILES], escape=False)))
    return "\n\n".join(section for section in sections if section) + "\n"


def _unchosen(run: Run) -> str:
    if not run.budget:
        return "No limits were given: this is the most accurate model on validation images."
    warning = "**Nothing tried met the limits.** This is the most accurate model on validation images; nearest were:"
    return f"{warning}\n\n{_list(run.nearest)}"


def _what(run: Run, result: Result) -> str:
    data = _plain(str(run.dataset.get("name", "its data set")))
    origin = f"trained on {data}" if result.epochs else f"trained elsewhere and measured on {data}"
    return (
        f"An image classifier for {_plain(wording.class_names(run.dataset, run.classes))}. Network "
        f"`{result.network}`, {wording.count(result.parameters)} parameters, {origin}, "
        f"for target {_plain(run.target)}. Made by dlmo."
    )


def _input_lines(run: Run) -> list[str]:
    lines = []
    if shape := wording.input_shape(run.dataset):
        lines.append(f"One image of {shape} (height x width).")
    if resize := run.dataset.get("resize"):
        lines.append(f"Other sizes: {resize}.")
    lines.append("Pixel values, scale and offset as in preprocessing.json; golden/ shows them on examples.")
    return lines


def _numbers(run: Run, result: Result) -> str:
    latency = f"{wording.latency_words(result)}, one image, {wording.threads(result.threads)}, {result.latency_source}"
    rows = [
        (
            "accuracy",
            f"{wording.percent(result.accuracy)} % (95 % interval {wording.interval(result)} %, "
            f"n = {result.test_images:,} test images)",
        ),
        (
            "validation accuracy",
            f"{wording.percent(result.validation_accuracy)} % ({wording.validation_images(run, result)})",
        ),
        (
            "size",
            f"{wording.kilobytes(result.size_bytes)} KB; {wording.kilobytes(result.compressed_bytes)} KB zipped "
            f"(1 KB = {wording.KB:,} bytes)",
        ),
        *([("latency", latency)] if result.latency_ms is not None else []),
        *([("latency by threads", by_threads)] if (by_threads := wording.thread_latencies(result)) else []),
        *((f"latency on {name}", wording.latency_words(there)) for name, there in result.elsewhere.items()),
        ("machine", wording.machine_words(run.machine)),
        *([("device", result.device)] if result.device else []),
        ("multiply-adds", wording.count(result.macs)),
    ]
    if result.ram_bytes is not None:
        parts = "" if result.arena_head is None else f"{wording.ram_words(result)}; "
        rows.append(("RAM", f"{wording.kilobytes(result.ram_bytes)} KB, {parts}{result.ram_source}"))
    if result.flash_bytes is not None:
        rows.append(("flash", f"{wording.kilobytes(result.flash_bytes)} KB, {result.flash_source}"))
    return _table(("what", "value"), rows)


def _recall_table(run: Run) -> str:
    rows = [
        (
            entry.name,
            f"{wording.percent(entry.recall)} %",
            f"{entry.right:,} of {entry.images:,}",
            entry.taken_for,
        )
        for entry in recalls(run)
    ]
    return _table(("class", "recall", "found", "most often taken for"), rows) if rows else ""


def _limits(run: Run, result: Result) -> list[str]:
    data = run.dataset.get("name", "the data set")
    lines = [
        f"The accuracy holds for images like the test images of {data}; "
        "other cameras, light or places need a new test.",
        f"It always answers with one of its {len(run.classes)} classes, also for an image of none of them.",
        "Its scores order the classes; they are not calibrated probabilities.",
    ]
    imbalance = wording.imbalance(run.dataset)
    if imbalance > 1.5:
        lines.append(f"The largest class has {imbalance:.3g} times the training images of the smallest.")
    precision = result.recipe.rpartition(" > ")[2].partition("(")[0]
    if precision in PRECISIONS:
        lines.append(PRECISIONS[precision])
    if result.float_operators:
        lines.append(f"Stayed in float: {', '.join(result.float_operators)}.")
    return lines + [note for note in run.notes if not _about_another(note, run, result)]


def _about_another(note: str, run: Run, result: Result) -> bool:
    """Whether a note begins with the name of another recipe."""
    others = {other.recipe for other in run.results} - {result.recipe}
    return any(note.startswith((f"{recipe}:", f"{recipe},")) for recipe in others)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _list(lines: tuple[str, ...] | list[str], escape: bool = True) -> str:
    return "\n".join(f"- {_plain(line) if escape else line}" for line in lines)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(map(_plain, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that markdown shows as it is: names come from folders of users."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))
