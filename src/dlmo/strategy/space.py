"""The recipes a search may try: what Optuna is asked for, and the recipe its answers make."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dlmo import networks
from dlmo.networks.stems import from_auto
from dlmo.strategy.legality import refusal
from dlmo.study.recipe import Kd, PruneChannels, Recipe, Step, parse_steps, search_range

if TYPE_CHECKING:
    from optuna.trial import Trial

# Families that train fast and stay small, in several depths.
_NETWORKS = ("resnet8", "resnet14", "wide_resnet_10_1", "mobilenet_v2")
_LARGER_NETWORKS = ("resnet20", "resnet32", "wide_resnet_16_1")
_IMAGES_FOR_LARGER = 5_000
_WIDTHS = (0.25, 0.375, 0.5, 0.75, 1.0)
# Shares of the channels that are cut. Every layer loses the same share, so that the file's size is known before.
_CUT_STEP, _MOST_CUT = search_range(PruneChannels, "ratio")
# What a teacher's answers are learned by. On CIFAR-10's validation images, after 3 epochs of MobileNet v3-small under a
# wide ResNet of 83 %: without a teacher 66.7 %, kd 72.1, dist 72.1, kd(labels=0.5) 73.0, dkd 73.5.
_LOSS = "dkd"
_SMALLEST_FORMS = ("int8", "prune > int8", "prune(0.9) > int8", "prune > dynamic_int8")
_FORMS = ("qat > int8", "int8", "prune > int8", "prune(0.9) > int8", "prune > dynamic_int8", "dynamic_int8", "float16")


@dataclass(frozen=True)
class Space:
    """networks: names; widths: factors of their channels, one of them for each; stems: what they make of the image's
    resolution, the one for such images first; both empty where the user named the networks. teaching: whether a teacher
    may help. forms: the ends of recipes that the target runs."""

    networks: tuple[str, ...]
    widths: tuple[float, ...]
    stems: tuple[str, ...]
    teaching: bool
    forms: tuple[str, ...]

    def recipe(self, trial: "Trial", teacher: str | None) -> Recipe:
        """What a trial's parameters stand for. teacher: the best network so far."""
        network = trial.suggest_categorical("network", self.networks)
        if self.widths:
            network = networks.canonical(f"{network}@{trial.suggest_categorical('width', self.widths)}")
        if len(self.stems) > 1:
            network = self._with(network, trial.suggest_categorical("stem", self.stems))
        steps: list[Step] = []
        taught = self.teaching and trial.suggest_categorical("kd", (False, True))
        if taught and teacher not in (None, network):
            steps.append(Kd(teacher=teacher, loss=_LOSS))
        share = trial.suggest_float("cut", 0, _MOST_CUT, step=_CUT_STEP)
        return _recipe(network, steps, share, trial.suggest_categorical("form", self.forms))

    def first(self) -> list[dict[str, object]]:
        """Parameters to begin with: recipes that are good as a rule, from small to large."""
        widths = self.widths or (1.0,)
        middle, narrow = widths[len(widths) // 2], widths[min(1, len(widths) - 1)]
        known = {"network", "cut", "form"}
        known |= {
            name for name, there in (("width", self.widths), ("stem", self.stems[1:]), ("kd", self.teaching)) if there
        }
        stem, coarser = (*self.stems, None, None)[:2]
        first = self.networks[0]
        good = [
            (first, middle, stem, False, 0.25, "prune > dynamic_int8"),
            (first, narrow, stem, True, 0.0, "int8"),
            (first, widths[-1], coarser, True, 0.0, "int8"),
            (first, widths[-1], stem, True, 0.5, "qat > int8"),
            # Where images are many: what learns more of them.
            *((name, widths[-1], stem, False, 0.0, "int8") for name in self.networks if name == _LARGER_NETWORKS[0]),
        ]
        some = [
            {"network": name, "width": width, "stem": stem, "kd": kd, "cut": cut, "form": form}
            for name, width, stem, kd, cut, form in good
            if form in self.forms and (stem is not None or not self.stems)
        ]
        return [{name: value for name, value in entry.items() if name in known} for entry in some]

    def smallest(self) -> list[Recipe]:
        """The least that each network can become."""
        least = f"@{min(self.widths)}" if self.widths else ""
        forms = [form for form in self.forms if form in _SMALLEST_FORMS]
        named = [f"{name}{least}" for name in self.networks]
        named = [self._with(name, self.stems[-1]) for name in named] if self.stems else named
        return [_recipe(name, [], _MOST_CUT, form) for name in named for form in forms]

    def _with(self, network: str, stem: str) -> str:
        """The network with this stem, which its name tells only where it is not the one for such images."""
        return networks.canonical(network if stem == self.stems[0] else f"{network}:{stem}")


def space_for(
    targets: Sequence[str], images: int, input_shape: tuple[int, int, int], stem: str, named: tuple[str, ...], own: bool
) -> Space:
    """targets: all of them must run a recipe. images: for training. stem: the user's, or auto. named: the networks the
    user asked for, all that is tried then. own: it is the user's."""
    larger = _LARGER_NETWORKS if images >= _IMAGES_FOR_LARGER else ()
    recipes = {form: Recipe("", parse_steps(form)) for form in _FORMS}
    forms = tuple(f for f, recipe in recipes.items() if all(refusal(recipe, target) is None for target in targets))
    stems = from_auto(input_shape) if stem == "auto" else (stem,)
    return Space(named or _NETWORKS + larger, () if named else _WIDTHS, () if named else stems, not own, forms)


def _recipe(network: str, steps: list[Step], share: float, form: str) -> Recipe:
    """share: of the channels that are cut, 0 to 1."""
    cut = [PruneChannels(ratio=share, scope="layer")] if share else []
    return Recipe(network, (*steps, *cut, *parse_steps(form)))
