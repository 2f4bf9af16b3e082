"""What a confusion matrix says in words: recall per class and the most frequent mistakes."""

from dataclasses import dataclass

from dlmo.study.results import Run


@dataclass(frozen=True)
class ClassRecall:
    """Of `images` test images of class `name`, `right` were found; `taken_for`: its most frequent wrong answer."""

    name: str
    images: int
    right: int
    taken_for: str

    @property
    def recall(self) -> float:
        return self.right / self.images


@dataclass(frozen=True)
class Mixup:
    """`images` test images of class `truth` were answered with class `answer`; share: of that class's images."""

    truth: str
    answer: str
    images: int
    share: float


def recalls(run: Run) -> list[ClassRecall]:
    """Per class that has test images, worst first."""
    found = []
    for index, counts in enumerate(run.confusion):
        if not run.images_of(index):
            continue
        wrong = [0 if column == index else images for column, images in enumerate(counts)]
        taken_for = run.classes[wrong.index(max(wrong))] if max(wrong) else ""
        found.append(ClassRecall(run.classes[index], run.images_of(index), counts[index], taken_for))
    return sorted(found, key=lambda entry: entry.recall)


def mixups(run: Run, number: int) -> list[Mixup]:
    """The most frequent mistakes, by images."""
    found = [
        Mixup(run.classes[row], run.classes[column], images, images / run.images_of(row))
        for row, counts in enumerate(run.confusion)
        for column, images in enumerate(counts)
        if images and row != column
    ]
    return sorted(found, key=lambda mixup: -mixup.images)[:number]
