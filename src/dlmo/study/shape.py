"""A recipe's file before any training: the same conversion, of the network with its initial weights.

How large a file is and how long it runs hardly depends on what its weights are. What the initial weights cannot tell
is which layers lose the channels that a ranking over all layers takes, which of a stage's blocks go where they are not
alike, and where the zeros of pruning fall.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo.atomic import write_atomically
from dlmo.study.recipe import Int8, Mixed, Precision, Prune, Qat, Recipe, Step
from dlmo.study.steps import work_of
from dlmo.study.store import key_of
from dlmo.study.workspace import Workspace, build_network

if TYPE_CHECKING:
    from torch import nn

# Raise it when the code here, or that of the conversion, changes what a file takes.
_VERSION = 6
# Enough to give every activation a range.
_SEEN_IMAGES = 16
# Share by which a trained file's size may differ.
SIZE_ERROR = 0.03


def untrained_file(workspace: Workspace, recipe: Recipe) -> bytes:
    """The file of a recipe that nothing was trained for. Kept in the store, shared by all data of this shape."""

    def make(folder: Path) -> None:
        content = untrained_float(workspace, recipe)
        qat, pruned = _holds(recipe, Qat), _holds(recipe, Prune)
        content = _in_precision(workspace, content, recipe.precision, fake_quantized=qat, pruned=pruned)
        write_atomically(folder / "model.tflite", content)

    return (workspace.store.stage("shape", file_key(workspace, recipe), make) / "model.tflite").read_bytes()


def file_of(workspace: Workspace, network: "nn.Module", precision: Precision) -> bytes:
    """The file of a network as it stands, whose weights say nothing yet."""
    from dlmo.study.conversion import float_content
    from dlmo.techniques.integer_form import integer_form, needs_integer_form

    if isinstance(precision, Int8 | Mixed) and needs_integer_form(network):
        network = integer_form(network)
    content = float_content(network, workspace.dataset, False)
    return _in_precision(workspace, content, precision, fake_quantized=False, pruned=False)


def _in_precision(
    workspace: Workspace, content: bytes, precision: Precision, *, fake_quantized: bool, pruned: bool
) -> bytes:
    from dlmo.study.conversion import artifact_content

    data = workspace.dataset
    if isinstance(precision, Int8 | Mixed):  # what `mixed` takes away from int8, training decides
        precision = Int8(calibration=_SEEN_IMAGES)
    data = replace(data, validation=data.validation.spread(_SEEN_IMAGES))
    return artifact_content(content, precision, data, 0, fake_quantized=fake_quantized, pruned=pruned)[0]


def file_key(workspace: Workspace, recipe: Recipe) -> str:
    """What a recipe's untrained file is kept under."""
    return key_of("shape", _VERSION, _shape_of(workspace, recipe) | {"precision": recipe.precision.name})


def untrained_float(workspace: Workspace, recipe: Recipe) -> bytes:
    """The converter's file: float, or with QAT int8."""
    if workspace.is_own(recipe.network) and workspace.own.tflite is not None:
        return workspace.own.tflite

    from dlmo.techniques.integer_form import integer_form, needs_integer_form

    quantization_aware = _holds(recipe, Qat)
    fresh = initial_network(workspace, recipe.network)
    rewritten = isinstance(recipe.precision, Int8 | Mixed) and not quantization_aware and needs_integer_form(fresh)

    def make(folder: Path) -> None:
        from dlmo.study.conversion import float_content

        with workspace.progress.stage(f"convert {recipe.network}, untrained"):
            network = fresh
            for step in recipe.further_trainings:
                network = work_of(step).shaped(workspace, recipe, step, network)
            network = integer_form(network) if rewritten else network
            content = float_content(network, workspace.dataset, quantization_aware)
        write_atomically(folder / "model.tflite", content)

    inputs = _shape_of(workspace, recipe) | {"integer_form": rewritten}
    return (workspace.store.stage("shape", key_of("shape", _VERSION, inputs), make) / "model.tflite").read_bytes()


def initial_network(workspace: Workspace, name: str) -> "nn.Module":
    """The network with its initial weights, the same each time.

    Each is moved a little: constants that are equal, such as initial biases, share one place in a file.
    """
    import torch

    torch.manual_seed(0)
    network = build_network(workspace, name).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and not workspace.is_own(name):
                tensor.add_(0.01 * torch.rand_like(tensor))
    return network


def _shape_of(workspace: Workspace, recipe: Recipe) -> dict:
    """What the file's shape depends on, but for the precision it is stored in."""
    limits = [
        work_of(step).limits(workspace, step, recipe.network, recipe.precision) for step in recipe.further_trainings
    ]
    own = workspace.own if workspace.is_own(recipe.network) else None
    return {
        **workspace.identity(recipe.network),
        "own": own.fingerprint if own else None,
        "classes": len(workspace.dataset.classes),
        "input_shape": workspace.dataset.input_shape,
        "steps": [[step.name, step.model_dump(exclude={"epochs"})] for step in recipe.further_trainings],
        "limits": [entry for entry in limits if entry is not None],
    }


def _holds(recipe: Recipe, kind: type[Step]) -> bool:
    return any(isinstance(step, kind) for step in recipe.steps)
