"""How the reports write numbers and facts; the same in the terminal, on the page and in the model card."""

import math

from dlmo.measure.targets import Measured
from dlmo.study.results import Failure, Result, Run, Rung, Search, StepWorth, most_accurate, pareto_front

KB = 1000
NOT_KNOWN = "-"


def percent(share: float | None) -> str:
    """0.9421 -> 94.2"""
    return NOT_KNOWN if share is None else f"{share * 100:.1f}"


def interval(result: Result) -> str:
    """The 95 % interval of test accuracy, in percent: 93.1-95.2"""
    return f"{percent(result.accuracy_low)}-{percent(result.accuracy_high)}"


def kilobytes(size: int | None) -> str:
    """Bytes in KB of 1000 bytes, three digits or more: 3.21, 43.2, 1,234"""
    return NOT_KNOWN if size is None else _three_digits(size / KB)


def megabytes(whole: int | None, available: int | None) -> str:
    """4,096 MB, 3,100 MB of it available"""
    if whole is None:
        return "not told"
    return f"{whole / 1e6:,.0f} MB" + ("" if available is None else f", {available / 1e6:,.0f} MB of it available")


def milliseconds(value: float | None) -> str:
    """0.0123 -> 0.0123, 12.34 -> 12.3"""
    return _three_digits(value) if is_known(value) else NOT_KNOWN


def latency_words(result: Result | Measured) -> str:
    """1.23 ms p50, 1.30 ms p90; an estimate has but one value and its cycles: 1.23 ms, 12,345 cycles"""
    words = f"{milliseconds(result.latency_ms)} ms"
    if result.latency_p90_ms is not None:
        words += f" p50, {milliseconds(result.latency_p90_ms)} ms p90"
    return words + (f", {result.cycles:,} cycles" if result.cycles is not None else "")


def is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def count(value: int) -> str:
    """12345678 -> 12.3 M"""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return _three_digits(value / unit) + name
    return str(value)


def points(gain: float) -> str:
    """A difference of accuracies in percentage points: +0.42"""
    return f"{gain * 100:+.2f}"


def paid(step: Rung | StepWorth) -> str:
    """Whether a step paid, and whether answers got worse for it; empty for the first rung, which is no step."""
    if not step.verdict:
        return ""
    return ("at a loss" if step.verdict.startswith("worse") else "yes") if step.paid else "no"


def several_seeds(run: Run) -> bool:
    return len({result.seed for result in run.results}) > 1


def over_seeds(run: Run) -> list[str]:
    """Test accuracy of each recipe that ran with several seeds: its mean and range."""
    found: dict[str, list[float]] = {}
    for result in run.results:
        found.setdefault(result.recipe, []).append(result.accuracy)
    return [
        f"{recipe}: {percent(sum(shares) / len(shares))} % on average of {len(shares)} seeds, "
        f"{percent(min(shares))} to {percent(max(shares))}"
        for recipe, shares in found.items()
        if len(shares) > 1
    ]


def ratio(value: float | None) -> str:
    """0.253 -> x 0.25"""
    return f"x {value:.2f}" if is_known(value) else NOT_KNOWN


def search_words(search: Search) -> str:
    """What a search did, why it stopped, and what of its time was not work."""
    if not search.trials:
        return f"Nothing was tried beside the setups: {search.stopped}."
    trained = [trial for trial in search.trials if not trial.refused]
    least = min((trial.epochs for trial in trained), default=0)
    formats = {t.recipe for t in trained} - {t.recipe for t in trained if t.epochs == least}
    short = {trial.recipe for trial in trained} - formats
    long = len(trained) - len(short) - len(formats)  # one trial more of the same recipe
    refused = sum(bool(trial.refused) and not trial.epochs for trial in search.trials)
    failed = sum(bool(trial.refused) and bool(trial.epochs) for trial in search.trials)
    rest = (
        "" if search.overhead is None
        else f" Neither training, conversion nor measuring: {percent(search.overhead)} % of that time."
    )  # fmt: skip
    return (
        f"Beside the setups, recipes trained short: {len(short)}, of these also long: {long}"
        f"{f' (and in other number formats: {len(formats)})' if formats else ''}, refused untrained: "
        f"{refused}{f', failed: {failed}' if failed else ''}. Stopped after {duration(search.seconds)}: "
        f"{search.stopped}.{rest}"
    )


def duration(seconds: float) -> str:
    """4.2 s, 3m 20s, 2h 05m"""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def threads(number: int) -> str:
    return f"{number} thread" if number == 1 else f"{number} threads"


def failed(failure: Failure) -> str:
    return f"{failure.recipe}, seed {failure.seed}: {failure.error}"


def by_network(run: Run) -> list[Result]:
    """Results of one network together; networks and setups in the order the run gave them."""
    networks = list(dict.fromkeys(result.network for result in run.results))
    return sorted(run.results, key=lambda result: networks.index(result.network))


def best_trades(run: Run) -> list[Result]:
    """Results on the front of accuracy against size or against what running costs."""
    cost = running_cost(run)
    known = tuple(result for result in run.results if is_known(getattr(result, cost)))
    return pareto_front(run.results, "size_bytes") + pareto_front(known, cost)


def running_cost(run: Run) -> str:
    """What running is judged by: `latency_ms`, or `ram_bytes` where the target tells no latency."""
    return "latency_ms" if any(is_known(result.latency_ms) for result in run.results) else "ram_bytes"


def elsewhere(run: Run) -> list[tuple[str, Run]]:
    """The run as each of its further targets measured it."""
    return [(name, run.on(name)) for name in run.further_targets]


def devices(run: Run) -> list[str]:
    """What the run's target says of itself, where it is another machine."""
    return list(dict.fromkeys(result.device for result in run.results if result.device))


def thread_latencies(result: Result) -> str:
    """Medians with every number of threads: 12.1 ms with 1 thread, 6.93 ms with 2 threads; empty for only one."""
    entries = sorted((int(count), value) for count, value in result.latency_by_threads.items())
    words = [f"{milliseconds(value)} ms with {threads(count)}" for count, value in entries]
    return ", ".join(words) if len(words) > 1 else ""


def latencies_by_threads(run: Run) -> list[str]:
    """The numbers of threads that every result was measured with, fewest first; none where it was only one."""
    counts = [set(result.latency_by_threads) for result in run.results]
    shared = sorted(set.intersection(*counts), key=int) if counts else []
    return shared if len(shared) > 1 else []


def ram_words(result: Result) -> str:
    """What the RAM of a result is made of."""
    if result.arena_head is None or result.arena_persistent is None:
        return "growth of peak memory by loading and running" if result.ram_source == "measured" else ""
    return f"arena: {kilobytes(result.arena_head)} KB head + {kilobytes(result.arena_persistent)} KB persistent"


def compared(run: Run) -> str:
    """What the best trades are the best of: all, or, where validation images were few, what was looked at again."""
    alike = len({result.validation_images for result in run.results}) < 2
    return "tried" if alike else "looked at again"


def validation_images(run: Run, result: Result) -> str:
    """How many images a validation accuracy is of, and how, where the validation split has fewer."""
    if result.validation_images == run.dataset.get("validation_images", result.validation_images):
        return f"n = {result.validation_images:,}"
    return f"n = {result.validation_images:,}, by cross-validation"


def described(run: Run) -> Result | None:
    """The result that confusion and mistakes belong to: the chosen, else the most accurate."""
    return run.choice.result if run.choice else most_accurate(run.results)


def steps(result: Result) -> str:
    """The recipe without its network: prune(0.9) > int8"""
    return result.recipe.partition(" > ")[2] or result.recipe


def test_images(run: Run) -> str:
    """How many test images the accuracies rest on, in words."""
    numbers = sorted({result.test_images for result in run.results})
    return " or ".join(f"{number:,}" for number in numbers) or "no"


def thread_counts(run: Run) -> str:
    """The thread counts of the latencies, in words."""
    return " or ".join(threads(number) for number in sorted({result.threads for result in run.results}))


def source(run: Run, field: str) -> str:
    """How a number was got over all results: measured, or measured (3), estimated (1)."""
    values = [getattr(result, field) for result in run.results]
    kinds = list(dict.fromkeys(values))
    if len(kinds) < 2:
        return "".join(kinds)
    return ", ".join(f"{kind} ({values.count(kind)})" for kind in kinds)


def class_names(dataset: dict, classes: tuple[str, ...]) -> str:
    """How many classes, and their names where they are few."""
    names = list(classes) or list(map(str, dataset.get("classes") or []))
    shown = f": {', '.join(names)}" if 0 < len(names) <= 12 else ""
    return f"{len(names)} classes{shown}"


def split_counts(dataset: dict) -> str:
    """1,200 train, 300 validation, 400 test images; empty where the counts are not given."""
    names = ("train", "validation", "test")
    known = [(name, dataset[f"{name}_images"]) for name in names if f"{name}_images" in dataset]
    return ", ".join(f"{number:,} {name}" for name, number in known) + (" images" if known else "")


def imbalance(dataset: dict) -> float:
    """Training images of the largest class over those of the smallest; 1 where not known."""
    counts = dataset.get("class_counts") or {"": 1}
    return max(counts.values()) / max(1, min(counts.values()))


def dataset_details(dataset: dict) -> list[tuple[str, str]]:
    """What a reader may ask about the data set beyond its name, splits, input and classes."""
    skipped = dataset.get("skipped") or []
    larger = imbalance(dataset)
    details = [
        ("resize", dataset.get("resize")),
        (
            "balance",
            f"the largest class has {larger:.3g} times the training images of the smallest" * (larger > 1),
        ),
        (
            "left out",
            f"{len(skipped):,} file{'s' * (len(skipped) > 1)}, named in results.json under skipped" if skipped else "",
        ),
        ("fingerprint", dataset.get("fingerprint")),
    ]
    return [(name, text) for name, text in details if text]


def input_shape(dataset: dict) -> str:
    """32 x 32 RGB; empty where not given."""
    shape = dataset.get("input")
    if not shape or len(shape) != 3:
        return ""
    height, width, channels = shape
    return f"{height} x {width} {'grey' if channels == 1 else 'RGB' if channels == 3 else f'x {channels}'}"


def dataset_facts(run: Run) -> list[str]:
    """Name, splits, input and classes of the data set; what is not known is left out."""
    name = str(run.dataset.get("name", "data set"))
    facts = [name, split_counts(run.dataset), input_shape(run.dataset), class_names(run.dataset, run.classes)]
    return [fact for fact in facts if fact]


def facts(mapping: dict) -> list[tuple[str, str]]:
    """Names and values of a free dict (machine, budget), without empty ones."""
    return [
        (str(name).replace("_", " "), value_text(value))
        for name, value in mapping.items()
        if value is not None and value != "" and value != []
    ]


def value_text(value: object) -> str:
    """A value of a free dict as a reader wants it: 1.23, a, b, x 4, y 5"""
    if isinstance(value, dict):
        return ", ".join(f"{name} {value_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine_words(machine: dict) -> str:
    """The machine in one line; processor and cores first, without their names."""
    known = dict(facts(machine))
    cores = known.pop("cores", None)
    processor = known.pop("cpu", None)
    parts = [processor, f"{cores} cores" if cores else None, *known.values()]
    return ", ".join(part for part in parts if part) or "not recorded"


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    decimals = min(4, max(0, 2 - math.floor(math.log10(abs(value)))))
    return f"{value:,.{decimals}f}"
