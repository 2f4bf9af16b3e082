"""Ways to distil side by side: a Markdown table with mean and deviation over seeds, gain, test, published figure.

    python benchmarks/distillation_methods.py cifar100:DIR --store STORE [--seeds 3] [--epochs 240] [--only DKD]... \\
        [--repeat DKD]...
    python benchmarks/distillation_methods.py digits --student resnet8@0.25 --teacher resnet8 --epochs 12 \\
        --split validation --kd "kd(loss=hint, weight=2)" --kd "kd(loss=hint, weight=5)"
    python benchmarks/distillation_methods.py digits --student resnet8@0.25 --teacher resnet8 --epochs 12 --qat

Without --kd: the list of the literature for WRN-40-2 -> WRN-16-2 (arXiv:1910.10699, 2203.08679, 2403.01427), on its
schedule: SGD with 0.05, batches of 64, the rate divided by 10 after 150, 180 and 210 of 240 epochs, weight decay
5e-4, no label smoothing, no progressive sizes. What differs: Nesterov's momentum, shifts by 3 pixels instead of 4,
BatchNorm without weight decay, teacher's answers from as many fixed views as a quarter of the epochs (loss on answers).
Every method has the same schedule and as many updates; the last epoch counts. On test, the validation images are
trained on too, as nothing is chosen by them; with --split validation they are not.

With --repeat, only plain training and the methods named get all seeds, the others seed 0.

Each training lies in the store: a stopped run goes on, and several processes, each with its --only, may fill one
store at the same time; the call without --only then prints the whole table.

--qat compares quantization-aware training with the teacher and without, both from the same taught network, by the
answers of the int8 file.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import ttest_rel

from dlmo import networks
from dlmo.data import load
from dlmo.data.dataset import Dataset, Split, fingerprint
from dlmo.measure.accuracy import right_answers
from dlmo.measure.statistics import paired_test
from dlmo.report.progress import TerminalProgress
from dlmo.strategy.plan import augmentation_for, class_weights_for, schedules
from dlmo.study import stages, trainings
from dlmo.study.recipe import Int8, Kd, Qat, parse
from dlmo.study.store import open_store
from dlmo.study.workspace import NetworkPlan, Trained, Workspace, load_network
from dlmo.training.device import best_device
from dlmo.training.loop import predict
from dlmo.training.schedule import Schedule

STUDENT, TEACHER = "wide_resnet_16_2", "wide_resnet_40_2"
PLAIN, PUBLISHED_PLAIN, PUBLISHED_TEACHER = "plain training", 73.26, 75.61


@dataclass(frozen=True)
class Method:
    """kd: its step, without the teacher. published: test accuracy in percent of the pair above, where known."""

    name: str
    kd: str
    published: float | None = None


METHODS = (
    Method("KD", "kd", 74.92),
    Method("KD, standardized", "kd(standardize=true)", 76.11),
    Method("DKD", "kd(loss=dkd, beta=6)", 76.24),
    Method("DKD, standardized", "kd(loss=dkd, beta=6, standardize=true)", 76.39),
    # The released code sets other values than the paper names: temperature 4, target 9, others 81.
    Method("DKD, standardized as released", "kd(loss=dkd, beta=9, temperature=4, standardize=true)", 76.39),
    Method("DIST", "kd(loss=dist)"),
    Method("FitNet", "kd(loss=hint)", 73.58),
    Method("AT", "kd(loss=attention)", 74.08),
    Method("projector", "kd(loss=projector)"),
    Method("RKD", "kd(loss=rkd)", 73.35),
    Method("FSP", "kd(loss=gram)", 72.91),
    Method("mutual learning", "kd(scheme=online)"),
    Method("born again", "kd(self)"),
    Method("deepest to shallow", "kd(self, loss=shallow)"),
)


@dataclass(frozen=True)
class Stepped(Schedule):
    """drops: shares of the steps after which the rate is divided by 10; no warm-up."""

    drops: tuple[float, ...] = (150 / 240, 180 / 240, 210 / 240)

    def learning_rate_at(self, step: int, total: int) -> float:
        return self.learning_rate * 0.1 ** sum(step >= drop * total for drop in self.drops)


@dataclass(frozen=True)
class Row:
    """right: of each seed, which images were answered rightly (bool, N)."""

    name: str
    kd: str
    right: tuple[np.ndarray, ...]
    published: float | None

    def cells(self, baseline: "Row") -> list[str]:
        """The gain is over the baseline, on the seeds that both have. Its test is over those seeds; where there is one,
        over its images, and then says whether these two networks differ, not whether the methods do."""
        found = 100 * np.array([right.mean() for right in self.right])
        spread = f" ± {found.std(ddof=1):.2f}" if len(found) > 1 else ""
        cells = [self.name, f"`{self.kd}`" if self.kd else "", f"{found.mean():.2f}{spread}"]
        both = min(len(self.right), len(baseline.right))
        theirs = 100 * np.array([right.mean() for right in baseline.right[:both]])
        if both > 1:
            p_value = ttest_rel(found[:both], theirs).pvalue
        else:
            p_value = paired_test(baseline.right[0], self.right[0]).p_value
        gain = found[:both].mean() - theirs.mean()
        cells += ["", ""] if self is baseline else [f"{gain:+.2f}", f"{p_value:.2g}"]
        return [*cells, "" if self.published is None else f"{self.published:.2f}"]


@dataclass(frozen=True)
class Bench:
    """A pair of networks on one data set, all trained by one plan. split: what they are judged on."""

    workspace: Workspace
    plan: NetworkPlan
    student: str
    teacher: str
    seeds: range
    split: str

    def kd(self, text: str) -> Kd:
        """The step a text names, under the pair's teacher if it names none."""
        step = parse(f"{self.student} > {text}").kd
        return step if "teacher" in step.model_fields_set else step.model_copy(update={"teacher": self.teacher})

    def methods(self, methods: Sequence[Method], only: Sequence[str], repeat: Sequence[str]) -> list[Row]:
        """A row for plain training, for the teacher and for each method. repeat: the methods that get all seeds, none
        for every one."""
        wanted = [Method(PLAIN, "", PUBLISHED_PLAIN), Method("teacher", "", PUBLISHED_TEACHER), *methods]
        rows = []
        for method in wanted:
            if only and method.name not in only:
                continue
            network = self.teacher if method.name == "teacher" else self.student
            once = method.name == "teacher" or (repeat and method.name not in (PLAIN, *repeat))
            seeds = self.seeds[:1] if once else self.seeds
            kd = self.kd(method.kd) if method.kd else None
            trained = [trainings.train(self.workspace, network, self.plan, seed, kd) for seed in seeds]
            published = method.published if self.literature else None
            rows.append(Row(method.name, str(kd or ""), tuple(map(self.right_in_float, trained)), published))
        return rows

    def qat(self, text: str) -> list[Row]:
        """QAT without the teacher and with it, as int8 files, and the float networks that both begin with."""
        kd = self.kd(text)
        found: dict[str, list[np.ndarray]] = {"QAT without teacher": [], "QAT with teacher": [], "before QAT": []}
        for seed in self.seeds:
            taught = trainings.train(self.workspace, self.student, self.plan, seed, kd)
            found["before QAT"].append(self.right_in_float(taught))
            for name, under in (("QAT without teacher", None), ("QAT with teacher", kd)):
                quantized = trainings.train_further(self.workspace, taught, Qat(), self.plan, seed, under)
                found[name].append(self.right_in_int8(quantized, seed))
        return [Row(name, str(kd), tuple(answers), None) for name, answers in found.items()]

    def right_in_float(self, trained: Trained) -> np.ndarray:
        device = best_device()
        network = load_network(self.workspace, trained).to(device.name)
        return right_answers(predict(network, self.images, device), self.images.labels)

    def right_in_int8(self, trained: Trained, seed: int) -> np.ndarray:
        content = stages.convert(self.workspace, trained, Int8(), seed).content()
        return right_answers(stages.scores(self.workspace, content, self.split, "a student"), self.images.labels)

    @property
    def literature(self) -> bool:
        """Whether the published figures are of this pair and these data."""
        return (self.student, self.teacher, self.workspace.dataset.name) == (STUDENT, TEACHER, "cifar100")

    @property
    def images(self) -> Split:
        return getattr(self.workspace.dataset, self.split)


def with_all_images(dataset: Dataset) -> Dataset:
    """The data set with its validation images among the training images too."""
    parts = dataset.train, dataset.validation
    train = Split(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        sum((part.names for part in parts), ()),
    )
    digest = fingerprint(dataset.classes, (train, dataset.validation, dataset.test))
    return replace(dataset, train=train, fingerprint=digest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--student", default=STUDENT)
    parser.add_argument("--teacher", default=TEACHER)
    parser.add_argument("--kd", action="append", default=[], help="a method of your own in place of the list")
    parser.add_argument("--only", action="append", default=[], help=f'"{PLAIN}", teacher, or a method of the list')
    parser.add_argument("--repeat", action="append", default=[], help="give all seeds to this method; see above")
    parser.add_argument("--qat", action="store_true", help="quantization-aware training with and without the teacher")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=240)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--store", type=Path, default=None)
    arguments = parser.parse_args()
    student, teacher = networks.canonical(arguments.student), networks.canonical(arguments.teacher)
    dataset = load(arguments.source)
    if arguments.split == "test":
        dataset = with_all_images(dataset)
    store = open_store(arguments.store)
    weights = class_weights_for(dataset)
    workspace = Workspace(dataset, store, augmentation_for(dataset), weights, "auto", TerminalProgress())
    plan = replace(
        schedules(len(dataset.train), min(dataset.input_shape[:2]), arguments.epochs),
        train=Stepped(arguments.epochs, arguments.batch, arguments.rate, 0.0, label_smoothing=0.0),
    )
    bench = Bench(workspace, plan, student, teacher, range(arguments.seeds), arguments.split)
    methods = [Method(text, text) for text in arguments.kd] or METHODS
    rows = bench.qat(methods[0].kd) if arguments.qat else bench.methods(methods, arguments.only, arguments.repeat)
    print(
        f"\n{teacher} -> {student} on {dataset.name}, {len(bench.images):,} {arguments.split} images. "
        f"{arguments.epochs} epochs of {len(dataset.train):,} images in batches of {arguments.batch}, rate "
        f"{arguments.rate:g} in steps, last epoch; seeds: {arguments.seeds}; {best_device().describe()}\n"
    )
    print(f"| method | step | accuracy % | gain over {rows[0].name} | p | published % |")
    print("|---|---|---:|---:|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row.cells(rows[0]))} |")


if __name__ == "__main__":
    main()
