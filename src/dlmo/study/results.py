"""What a study finds: one result per recipe and seed, and their JSON and CSV form."""

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING

from dlmo.measure.targets import Measured
from dlmo.training.curve import Epoch

if TYPE_CHECKING:
    from dlmo.measure.layers import Inspection

_FURTHER_COLUMNS = ("latency_ms", "latency_p90_ms", "ram_bytes")


@dataclass(frozen=True)
class Result:
    """One recipe, trained, converted, run and measured.

    Accuracies 0 to 1; `accuracy` on test with its 95 % Wilson interval, `validation_accuracy` is what choices are made
    on, of `validation_images` images: more than the validation split has where it was looked at again by
    cross-validation (see strategy.confirm). Sizes in bytes: the raw .tflite file, and the same file in a zip. Latency
    in milliseconds per image at batch 1 with `threads` threads, None where the target cannot tell (an estimate has no
    p90). ram_bytes: what the target counts (cpu: growth of a process's peak memory by loading and running the file;
    mcu: arena bytes, also by part), None where the system does not tell. flash_bytes: what a device stores, where that
    is not just the file. cycles: of one inference, where a compiler estimates them. Each `source` says how its number
    was got.
    delegated: share of the graph's nodes in `partitions` delegate partitions, 0 to 1. sparsity: share of zeros among
    the prunable weights. float_operators: computing operators of an int8 file that stayed in float. seconds: training
    time of the whole recipe; shared stages count in full.
    latency_by_threads: medians by number of threads, where the target measures several. device: what a target that is
    another machine says of itself and of the measurement; doubts: what makes its numbers doubtful, sentences.
    elsewhere: what the run's further targets measured of the same file, by their names; choices are not made on it.
    trained_on: what its trainings ran on, in words; empty where that is not known.
    repair: what an int8 file needed to keep its accuracy beyond plain ranges, in words; empty for nothing.
    artifact: file name inside the run's `artifacts` folder.
    """

    recipe: str
    setup: str
    network: str
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    validation_accuracy: float
    size_bytes: int
    compressed_bytes: int
    latency_ms: float | None
    latency_p90_ms: float | None
    threads: int
    ram_bytes: int | None
    macs: int
    parameters: int
    delegated: float
    partitions: int
    seed: int
    epochs: float
    seconds: float
    test_images: int
    validation_images: int
    sparsity: float
    operators: dict[str, int]
    float_operators: tuple[str, ...]
    artifact: str
    latency_source: str = "measured"
    ram_source: str = "measured"
    repair: str = ""
    arena_head: int | None = None
    arena_persistent: int | None = None
    flash_bytes: int | None = None
    flash_source: str | None = None
    cycles: int | None = None
    latency_by_threads: dict[str, float] = field(default_factory=dict)
    accuracy_source: str = "measured"
    device: str = ""
    doubts: tuple[str, ...] = ()
    elsewhere: dict[str, Measured] = field(default_factory=dict)
    trained_on: tuple[str, ...] = ()

    @property
    def arena_bytes(self) -> int | None:
        """What TensorFlow Lite Micro needs; None where it was not asked."""
        return None if self.arena_head is None else self.arena_head + (self.arena_persistent or 0)


@dataclass(frozen=True)
class Failure:
    """A recipe without a result; error: why, in one line."""

    recipe: str
    setup: str
    network: str
    seed: int
    error: str


# How the words on a repair end that left more loss than needs no repair.
NOT_ENOUGH = ", which is not enough"


@dataclass(frozen=True)
class Repair:
    """Which rung of study.int8_repair was taken, and what each tried one lost against the float file.

    lost: accuracy, 0 to 1, on `images` validation images. layers: the operators that add most error to the file of
    the first rung, with their signal-to-noise ratio, in words, worst first. allowed: the loss that needs no repair.
    """

    rung: str
    lost: dict[str, float]
    images: int
    layers: Sequence[str] = ()
    allowed: float = 1.0

    def words(self) -> str:
        """Empty where the first rung was enough."""
        if len(self.lost) == 1:
            return ""
        tried = ", ".join(f"{name} lost {100 * lost:.1f}" for name, lost in self.lost.items())
        blamed = f"; it was lost in {', '.join(self.layers)}" if self.layers else ""
        words = f"{self.rung} ({tried} points on {self.images} validation images{blamed})"
        if self.lost[self.rung] > self.allowed:
            words += NOT_ENOUGH
        return words


@dataclass(frozen=True)
class StepWorth:
    """What one step of the chosen recipe changed: the recipe with it against the one without it.

    gain: test accuracy with minus without, -1 to 1; the ratios are with over without, of latency where the target
    tells it, else of RAM; verdict: the paired test in words.
    """

    step: str
    without: str
    gain: float
    size_ratio: float
    latency_ratio: float | None
    verdict: str
    paid: bool
    ram_ratio: float | None = None


@dataclass(frozen=True)
class Rung:
    """The file that a step of the chosen recipe ends with, after the steps before it; the first is plain float.

    Figures as in Result. verdict: the paired test on test images against the rung before, in words; empty for the
    first. paid: whether the step made the answers better, the file smaller or running it cheaper. validation_accuracy:
    None where it is of fewer images than the chosen file's.
    """

    step: str
    recipe: str
    size_bytes: int
    latency_ms: float | None
    ram_bytes: int | None
    validation_accuracy: float | None
    accuracy: float
    verdict: str
    paid: bool


@dataclass(frozen=True)
class Choice:
    """The result picked for a budget, why, what its steps were worth, and the way to it step by step."""

    result: Result
    reasons: tuple[str, ...]
    worth: tuple[StepWorth, ...]
    advice: str
    waterfall: tuple[Rung, ...] = ()

    def to_json(self) -> dict:
        return {
            **asdict(self.result),
            "reasons": list(self.reasons),
            "worth": [asdict(step) for step in self.worth],
            "advice": self.advice,
            "waterfall": [asdict(rung) for rung in self.waterfall],
        }


@dataclass(frozen=True)
class Trial:
    """A recipe that a search looked at; names and units as in Result, None for what is not known.

    refused: why it was not trained; empty where it was. epochs: from scratch; a search trains short before long.
    seconds: what it took, with its teacher and its conversion.
    """

    recipe: str
    setup: str
    network: str
    seed: int
    epochs: float
    seconds: float
    size_bytes: int | None = None
    flash_bytes: int | None = None
    latency_ms: float | None = None
    ram_bytes: int | None = None
    validation_accuracy: float | None = None
    validation_images: int | None = None
    refused: str = ""


@dataclass(frozen=True)
class Search:
    """What a search did: every recipe in the order it was looked at, and why it stopped.

    seconds: of this run; overhead: the share of them, 0 to 1, that was neither training, conversion nor measuring; None
    where there was nothing left to do.
    """

    trials: tuple[Trial, ...]
    stopped: str
    seconds: float
    overhead: float | None


@dataclass(frozen=True)
class Mistake:
    """A wrongly classified test image: PNG bytes, names of the two classes, score of the answer as a probability."""

    png: bytes
    truth: str
    answer: str
    confidence: float
    name: str


@dataclass(frozen=True)
class Run:
    """Everything a report tells about one `optimize` or `study`.

    budget: the limits in words, empty for a study. choice: None when nothing met the budget or none was asked
    for; `nearest` then says what each near candidate lacks. confusion: test counts, classes x classes, rows are
    the truth, for the chosen (else the most accurate) result; answers that are no numbers are in no cell, so
    `test_counts` tells how many images each class has. curves: training curve per trained stage. layers: that
    result's operators against its float file, None where it is that file itself. search: None where there was none.
    failures: recipes without a result.
    """

    title: str
    dataset: dict
    target: str
    machine: dict
    budget: dict
    results: tuple[Result, ...]
    choice: Choice | None
    nearest: tuple[str, ...]
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    curves: dict[str, tuple[Epoch, ...]] = field(default_factory=dict)
    layers: "Inspection | None" = None
    search: Search | None = None
    failures: tuple[Failure, ...] = ()
    test_counts: tuple[int, ...] = ()

    def images_of(self, index: int) -> int:
        """How many test images are of a class."""
        return self.test_counts[index] if self.test_counts else sum(self.confusion[index])

    @property
    def further_targets(self) -> tuple[str, ...]:
        """What was measured on besides `target`."""
        return tuple(self.results[0].elsewhere) if self.results else ()

    def on(self, target: str) -> "Run":
        """The same run with what one of its further targets measured in place of its own target's numbers."""

        def there(result: Result) -> Result:
            measured = result.elsewhere[target]
            return replace(result, **{entry.name: getattr(measured, entry.name) for entry in fields(Measured)})

        choice = replace(self.choice, result=there(self.choice.result)) if self.choice else None
        return replace(self, target=target, results=tuple(map(there, self.results)), choice=choice)

    def to_json(self) -> dict:
        """The document of the contract's results.json."""
        return {
            "dataset": self.dataset,
            "target": self.target,
            "machine": self.machine,
            "budget": self.budget,
            "choice": self.choice.to_json() if self.choice else None,
            "nearest": list(self.nearest),
            "notes": list(self.notes),
            "search": asdict(self.search) if self.search else None,
            "results": [asdict(result) for result in self.results],
            "failures": [asdict(failure) for failure in self.failures],
        }

    def to_csv(self) -> str:
        """One line per result, columns as in results.json; then the recipes that failed, with their
        `error`. Further targets have columns of their own, latencies and memory."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [entry.name for entry in fields(Result) if entry.name != "elsewhere"]
        further = [(target, name) for target in self.further_targets for name in _FURTHER_COLUMNS]
        writer.writerow([*names, "error", *(f"{name} on {target}" for target, name in further)])
        for result in self.results:
            others = [getattr(result.elsewhere[target], name) for target, name in further]
            writer.writerow([*(csv_cell(getattr(result, name)) for name in names), "", *others])
        for failure in self.failures:
            known = [csv_cell(getattr(failure, name, "")) for name in names]
            writer.writerow([*known, failure.error, *([""] * len(further))])
        return text.getvalue()


def best_judged(results: Sequence[Result]) -> list[Result]:
    """Those whose validation accuracy is known on most images: some may have been looked at again on further ones (see
    strategy.confirm), and what was not cannot be compared with them."""
    most = max((result.validation_images for result in results), default=0)
    return [result for result in results if result.validation_images == most]


def most_accurate(results: Sequence[Result]) -> Result | None:
    """The best on validation images, of those judged on most of them; of equals the smallest file. None of none."""
    return max(best_judged(results), key=lambda r: (r.validation_accuracy, -r.size_bytes), default=None)


def pareto_front(results: Sequence[Result], cost: str) -> list[Result]:
    """Results that no other one beats in both validation accuracy and `cost` (a field's name), cheapest first, of those
    judged on most images."""
    front: list[Result] = []
    for result in sorted(best_judged(results), key=lambda r: (getattr(r, cost), -r.validation_accuracy)):
        if not front or result.validation_accuracy > front[-1].validation_accuracy:
            front.append(result)
    return front


def csv_cell(value: object) -> object:
    """A field of a result as CSV wants it."""
    if isinstance(value, dict):
        return " ".join(f"{name}:{count}" for name, count in value.items())
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    return value
