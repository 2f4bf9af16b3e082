"""What a job is about to do, in the words trackers log."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from dlmo.study.recipe import Recipe
from dlmo.study.stages import trainings_of
from dlmo.study.workspace import NetworkPlan, Workspace
from dlmo.training.curve import Epoch


@dataclass(frozen=True)
class Training:
    """One training stage. name: network and steps so far, as in `resnet20 > prune(0.9)`; before: lines of the curves
    from scratch until it starts; passes_before: how often each image was seen until then."""

    name: str
    seed: int
    stage: str
    key: str
    before: int = 0
    passes_before: float = 0.0


@dataclass(frozen=True)
class Model:
    """One recipe with one seed: a row of the results. trainings: its own, in order; teachers: those of its teachers."""

    recipe: str
    seed: int
    settings: Mapping[str, object]
    trainings: tuple[Training, ...]
    teachers: tuple[Training, ...]


@dataclass(frozen=True)
class Work:
    """A job. command: the command line that does it; settings: what all its models share."""

    command: str
    dataset: str
    settings: Mapping[str, object]
    models: tuple[Model, ...]

    def trainings(self) -> Iterator[Training]:
        """Every training once; models share them."""
        seen = set()
        for model in self.models:
            for training in (*model.teachers, *model.trainings):
                if training.key not in seen:
                    seen.add(training.key)
                    yield training


def work_of(
    command: str,
    workspace: Workspace,
    recipes: Sequence[Recipe],
    plans: Mapping[str, NetworkPlan],
    seeds: Sequence[int],
    options: Mapping[str, object],
) -> Work:
    """options: of the job, added to the settings."""
    data = workspace.dataset
    settings = {
        "dataset": data.name,
        "data_fingerprint": data.fingerprint,
        "classes": len(data.classes),
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "test_images": len(data.test),
        "input": "x".join(map(str, data.input_shape)),
        "stem": workspace.stem,
        **{f"augmentation.{name}": value for name, value in asdict(workspace.augmentation).items()},
        **options,
    }
    models = tuple(
        _model(workspace, recipe, plans[recipe.network], seed, settings) for seed in seeds for recipe in recipes
    )
    return Work(command, data.name, settings, models)


def _model(workspace: Workspace, recipe: Recipe, plan: NetworkPlan, seed: int, shared: Mapping[str, object]) -> Model:
    steps = (None, *recipe.further_trainings)
    settings = dict(shared) | {
        "recipe": str(recipe), "setup": recipe.setup, "network": recipe.network, "seed": seed
    }  # fmt: skip
    expected = trainings_of(workspace, recipe, plan, seed)
    teachers = tuple(Training(e.name, e.seed, e.stage, e.key) for e in expected[: -len(steps)])
    trainings = []
    before, passes = 0, 0.0
    stood: Counter[str] = Counter()
    for step, own in zip(steps, expected[-len(steps) :]):
        schedule = plan.schedule_of(step)
        name = "train" if step is None else step.name
        stood[name] += 1
        if stood[name] > 1:  # prune2, prune3: as often as a recipe raises the share
            name += str(stood[name])
        settings |= {f"{name}.{field}": value for field, value in asdict(schedule).items()}
        trainings.append(Training(own.name, own.seed, own.stage, own.key, before, passes))
        before, passes = before + schedule.epochs, passes + schedule.passes
    return Model(str(recipe), seed, settings, tuple(trainings), teachers)


def values_of(epoch: Epoch) -> dict[str, float]:
    """A line of a curve under the names it is logged by; results have a validation accuracy of their own."""
    return {f"training/{name}": value for name, value in asdict(epoch).items() if name != "epoch"}
