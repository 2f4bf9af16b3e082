"""What a target cannot run, refused before anything is trained."""

from collections.abc import Iterable

from dlmo.errors import UserError
from dlmo.study.recipe import Int8, Prune, PruneChannels, Recipe

_SPARSE = "its zeros are stored sparse, and {runtime} does not know DENSIFY, which restores them"
_INTEGERS_ONLY = "an Ethos-U computes in integers; float operators would run on the CPU beside it"

# Per kind of target (see measure.targets): step name -> why it cannot run there. Kinds that are not listed run all.
# TensorFlow Lite Micro's reasons were seen under its interpreter (tests/runtimes/test_tflm.py).
_REASONS: dict[str, dict[str, str]] = {
    "mcu": {
        "prune": _SPARSE.format(runtime="TensorFlow Lite Micro"),
        "float16": "TensorFlow Lite Micro has no kernel that widens float16 weights",
        "mixed": "TensorFlow Lite Micro's dense layers take no 4-bit weights, and it does not widen float16 ones",
        "dynamic_int8": "TensorFlow Lite Micro does not run hybrid kernels (int8 weights, float activations)",
    },
    "npu": {
        "prune": _SPARSE.format(runtime="Vela"),
        "float32": _INTEGERS_ONLY,
        "float16": _INTEGERS_ONLY,
        "dynamic_int8": _INTEGERS_ONLY,
        "mixed": _INTEGERS_ONLY,
    },
}


def check(recipe: Recipe, target: str) -> None:
    """Raise UserError if `target` cannot run what the recipe makes, with the nearest recipe that it can run."""
    if target != "cpu" and any(isinstance(step, PruneChannels) and step.latency for step in recipe.steps):
        raise UserError(
            f'"{recipe}": prune_channels(latency=...) times this machine\'s kernels, not those of target {target}; '
            "give size= or macs="
        )
    reason = refusal(recipe, target)
    if reason:
        raise UserError(f'target {target} cannot run "{recipe}": {reason}; nearest: "{nearest_legal(recipe, target)}"')


def refusal(recipe: Recipe, target: str) -> str | None:
    """Why a target cannot run what a recipe makes; None where it can."""
    reasons = _REASONS.get(target.partition(":")[0], {})
    return next((reasons[step.name] for step in recipe.steps if step.name in reasons), None)


def nearest_legal(recipe: Recipe, target: str) -> Recipe:
    """The recipe with as few changes as needed: int8 at its end, no sparse weights."""
    kept = tuple(step for step in recipe.steps[:-1] if not isinstance(step, Prune))
    last = recipe.precision if isinstance(recipe.precision, Int8) else Int8()
    return Recipe(recipe.network, (*kept, last))


def without_illegal(recipes: Iterable[Recipe], target: str) -> tuple[list[Recipe], tuple[str, ...]]:
    """The recipes that a target can run, and a note on those left out, if any."""
    kept, left_out = [], {}
    for recipe in recipes:
        reason = refusal(recipe, target)
        if reason:
            left_out.setdefault(reason, {})[recipe.setup] = None
        else:
            kept.append(recipe)
    told = "; ".join(f"{', '.join(setups)} ({reason})" for reason, setups in left_out.items())
    return kept, (f"target {target}, left out: {told}",) if told else ()
