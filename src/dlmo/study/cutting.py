"""From a recipe's `prune_channels` step to what is cut: its limit, told in bytes of files and time of layers.

What a limit needs to know is read off a file of the uncut network in the recipe's precision, before any training: the
bytes of a layer, and what the whole network takes beside the sum of its layers.
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo.measure.latency import measure_latency
from dlmo.measure.layer_latency import LatencyTable, measure_table, with_rest
from dlmo.measure.size import FileSize
from dlmo.networks.shapes import LayerShape
from dlmo.runtimes.litert.flatbuffer import shorten_names, write_atomically
from dlmo.study.recipe import DynamicInt8, Int8, Precision, PruneChannels
from dlmo.study.store import key_of

if TYPE_CHECKING:
    from torch import nn

    from dlmo.study.stages import Workspace
    from dlmo.techniques.channel_pruning import Limit, Target

# Raise a number when the stage's code changes what it would produce.
_VERSIONS = {"uncut": 1, "latency": 1}
# Its ranges do not matter either, but an int8 file needs some.
_RANGE_IMAGES = 2
# Bytes of each layer by which a file may exceed what its constants take: they begin at multiples of 16.
_PADDING = 16


def target_of(
    workspace: "Workspace", step: PruneChannels, name: str, network: "nn.Module", precision: Precision
) -> "Target":
    """What a step cuts. network: the uncut one, trained or not. precision: of the recipe's file."""
    from dlmo.techniques.channel_pruning import Target

    limit = _limit(workspace, step, name, network, precision)
    return Target(step.ratio, limit, step.criterion, step.scope, step.round_to)


def key_inputs(workspace: "Workspace", step: PruneChannels, name: str, precision: Precision) -> dict:
    """What the cut depends on beside the step's values. A table is named by its stage, as every other input is."""
    if step.latency is not None:
        return {"table": _table_key(workspace, name, precision)}
    return {"precision": precision.name} if step.size is not None else {}


def _limit(
    workspace: "Workspace", step: PruneChannels, name: str, network: "nn.Module", precision: Precision
) -> "Limit | None":
    from dlmo.techniques.channel_pruning import Limit

    if step.macs is not None:
        whole = sum(shape.macs for shape in _shapes(workspace, network))
        return Limit("macs", step.macs, "", lambda shape: shape.macs / whole)
    if step.size is not None:
        size = FileSize.of(_uncut_file(workspace, name, network, precision))
        padding = _PADDING * len(_shapes(workspace, network))
        return Limit("size", step.size, " bytes", size, size.rest + padding)
    if step.latency is not None:
        table = latency_table(workspace, name, network, precision)
        return Limit("latency", step.latency, " ms", lambda shape: table(shape) / 1000)
    return None


def latency_table(workspace: "Workspace", name: str, network: "nn.Module", precision: Precision) -> LatencyTable:
    """Times of the network's layers, whole and with fewer channels, on this machine: a stage."""
    shapes = _shapes(workspace, network)

    def make(folder: Path) -> None:
        content = _uncut_file(workspace, name, network, precision)
        with workspace.progress.stage(f"time the layers of {name}") as update:
            table = measure_table(shapes, _number_format(precision), update)
            whole = measure_latency([content], threads=1)[0].p50_ms
        write_atomically(folder / "table.json", with_rest(table, shapes, whole).to_json().encode())

    key = _table_key(workspace, name, precision)
    return LatencyTable.from_json((workspace.store.stage("latency", key, make) / "table.json").read_text())


def _table_key(workspace: "Workspace", name: str, precision: Precision) -> str:
    inputs = {"uncut": _uncut_key(workspace, name, precision), "machine": workspace.target.identity()}
    return key_of("latency", _VERSIONS["latency"], inputs)


def _uncut_file(workspace: "Workspace", name: str, network: "nn.Module", precision: Precision) -> bytes:
    """A file of the whole network, whose weights do not matter: a stage."""

    def make(folder: Path) -> None:
        from dlmo.runtimes.litert.quantize import static_int8
        from dlmo.study.conversion import artifact_content, float_content
        from dlmo.techniques.integer_form import integer_form, needs_integer_form

        int8 = isinstance(precision, Int8)
        with workspace.progress.stage(f"convert {name}"):
            prepared = _with_other_biases(network)
            if int8 and needs_integer_form(prepared):
                prepared = integer_form(prepared)
            content = float_content(prepared, workspace.dataset, fake_quantized=False)
            if int8:
                content = shorten_names(static_int8(content, workspace.dataset.train.images[:_RANGE_IMAGES]))
            else:
                options = {"fake_quantized": False, "pruned": False}
                content, _ = artifact_content(content, precision, workspace.dataset, 0, **options)
        write_atomically(folder / "model.tflite", content)

    key = _uncut_key(workspace, name, precision)
    return (workspace.store.stage("uncut", key, make) / "model.tflite").read_bytes()


def _with_other_biases(network: "nn.Module") -> "nn.Module":
    """A copy in which no two biases are equal: the converter would store those of an untrained network once."""
    import torch

    copied, generator = copy.deepcopy(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.ndim == 1:
                parameter.normal_(generator=generator)
    return copied


def _uncut_key(workspace: "Workspace", name: str, precision: Precision) -> str:
    dataset = workspace.dataset
    inputs = {
        "network": workspace.own.fingerprint if workspace.is_own(name) else name,
        "classes": len(dataset.classes),
        "input_shape": dataset.input_shape,
        "stem": workspace.stem,
        "precision": precision.name,
    }
    return key_of("uncut", _VERSIONS["uncut"], inputs)


def _shapes(workspace: "Workspace", network: "nn.Module") -> list[LayerShape]:
    from dlmo.techniques.channel_pruning import file_layers

    return [shape for _, shape in file_layers(network, workspace.dataset.input_shape)]


def _number_format(precision: Precision) -> str:
    """Of the arithmetic; float16 weights are widened when the file is loaded."""
    if isinstance(precision, Int8):
        return "int8"
    return "dynamic_int8" if isinstance(precision, DynamicInt8) else "float32"
