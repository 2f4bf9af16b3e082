"""What a target cannot run, refused before anything is trained."""

from collections.abc import Iterable

from dlmo.errors import UserError
from dlmo.study.recipe import Int8, Prune, Qat, Recipe, Step

_SPARSE = "its zeros are stored sparse, and {runtime} does not know DENSIFY, which restores them"
_INTEGERS_ONLY = "an Ethos-U computes in integers; float operators would run on the CPU beside it"

# Per kind of target (see measure.targets): step name -> why it cannot run there. Kinds that are not listed run all.
# TensorFlow Lite Micro's reasons were seen under its interpreter (tests/runtimes/test_tflm.py).
_REASONS: dict[str, dict[str, str]] = {
    "mcu": {
        "prune": _SPARSE.format(runtime="TensorFlow Lite Micro"),
        "float16": "TensorFlow Lite Micro has no kernel that widens float16 weights",
        "dynamic_int8": "TensorFlow Lite Micro does not run hybrid kernels (int8 weights, float activations)",
    },
    "npu": {
        "prune": _SPARSE.format(runtime="Vela"),
        "float32": _INTEGERS_ONLY,
        "float16": _INTEGERS_ONLY,
        "dynamic_int8": _INTEGERS_ONLY,
    },
}
# Trained scales do not reach the inside of a hard sigmoid: each squeeze-excite block leaves int8 and comes back.
_FLOAT_AFTER_QAT = ("mobilenet_v3_small", "mobilenet_v3_large")
_FLOAT_FALLBACK = "after QAT its hard sigmoids stay in float, between QUANTIZE and DEQUANTIZE"


def check(recipe: Recipe, target: str) -> None:
    """Raise UserError if `target` cannot run what the recipe makes, with the nearest recipe that it can run."""
    reason = refusal(recipe.network, recipe.steps, target)
    if reason:
        raise UserError(f'target {target} cannot run "{recipe}": {reason}; nearest: "{nearest_legal(recipe, target)}"')


def refusal(network: str, steps: Iterable[Step], target: str) -> str | None:
    """Why a target cannot run a network after these steps; None where it can."""
    reasons = _REASONS.get(target.partition(":")[0], {})
    steps = tuple(steps)
    for step in steps:
        if step.name in reasons:
            return reasons[step.name]
    after_qat = any(isinstance(step, Qat) for step in steps)
    if reasons and after_qat and network.partition("@")[0] in _FLOAT_AFTER_QAT:
        return _FLOAT_FALLBACK
    return None


def nearest_legal(recipe: Recipe, target: str) -> Recipe:
    """The recipe with as few changes as needed: int8 at its end, no pruning, no QAT where that leaves floats."""
    kept = tuple(step for step in recipe.steps[:-1] if not isinstance(step, Prune))
    last = recipe.precision if isinstance(recipe.precision, Int8) else Int8()
    if refusal(recipe.network, (*kept, last), target):
        kept = tuple(step for step in kept if not isinstance(step, Qat))
    return Recipe(recipe.network, (*kept, last))


def without_illegal(recipes: Iterable[Recipe], target: str) -> tuple[list[Recipe], tuple[str, ...]]:
    """The recipes that a target can run, and a note on those left out, if any."""
    kept, left_out = [], {}
    for recipe in recipes:
        reason = refusal(recipe.network, recipe.steps, target)
        if reason:
            left_out.setdefault(reason, {})[recipe.setup] = None
        else:
            kept.append(recipe)
    told = "; ".join(f"{', '.join(setups)} ({reason})" for reason, setups in left_out.items())
    return kept, (f"target {target}, left out: {told}",) if told else ()
