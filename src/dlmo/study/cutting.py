"""From a recipe's `prune_channels` step to what is cut: its limit, told in bytes of files and time of layers.

What a limit needs to know is read off a file of the uncut network in the recipe's precision, before any training: the
bytes of a layer, and what the whole network takes beside the sum of its layers.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo.atomic import write_atomically
from dlmo.errors import UserError
from dlmo.networks.shapes import LayerShape
from dlmo.study.recipe import DynamicInt8, Int8, Mixed, Precision, PruneChannels, Recipe
from dlmo.study.shape import file_key, file_of, initial_network, untrained_file
from dlmo.study.store import key_of

if TYPE_CHECKING:
    from torch import nn

    from dlmo.measure.layer_latency import LatencyTable
    from dlmo.study.workspace import Workspace
    from dlmo.techniques.channel_pruning import Limit, Target

# Raise it when the stage's code changes what it would produce.
_VERSION = 1
# Of a latency that is asked for, the table gets at least this share: what is beyond, another measurement would not see.
_MOST_CORRECTED = 0.7
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
    return {"file": file_key(workspace, Recipe(name, (precision,)))} if step.size is not None else {}


def _limit(
    workspace: "Workspace", step: PruneChannels, name: str, network: "nn.Module", precision: Precision
) -> "Limit | None":
    from dlmo.measure.size import FileSize
    from dlmo.techniques.channel_pruning import Limit

    if step.macs is not None:
        whole = sum(shape.macs for shape in _shapes(workspace, network))
        return Limit("macs", step.macs, "", lambda shape: shape.macs / whole)
    if step.size is not None:
        size = FileSize.of(untrained_file(workspace, Recipe(name, (precision,))))
        padding = _PADDING * len(_shapes(workspace, network))
        return Limit("size", step.size, " bytes", size, size.rest + padding)
    if step.latency is not None:
        return _latency_limit(workspace, step, name, network, precision)
    return None


def _latency_limit(
    workspace: "Workspace", step: PruneChannels, name: str, network: "nn.Module", precision: Precision
) -> "Limit":
    """By the table, and stricter where a file that was cut by it takes longer than the table told: layers in a row do
    not cost what they cost alone. The initial network is cut for that, which nothing has to be trained for."""
    from dlmo.techniques.channel_pruning import Limit, Target, cut

    table = latency_table(workspace, name, network, precision)
    limit = Limit("latency", step.latency, " ms", lambda shape: table(shape) / 1000)

    def make(folder: Path) -> None:
        from dlmo.measure.latency import measure_latency
        from dlmo.runtimes.litert.interpreter import Runner

        def cut_to(most: float) -> "nn.Module":
            target = Target(step.ratio, replace(limit, most=most), step.criterion, step.scope, step.round_to)
            return cut(fresh, fresh, target, workspace.dataset.train)

        fresh = initial_network(workspace, name)
        with workspace.progress.stage(f"time {name} as the table of layers would cut it"):
            content = file_of(workspace, cut_to(step.latency), precision)
            measured = measure_latency([content], threads=1, open_file=Runner)[0].p50_ms
            most = step.latency * max(_MOST_CORRECTED, min(1.0, step.latency / measured))
            try:
                cut_to(most)
            except UserError:  # not even with the fewest channels: better a little too slow than nothing
                most = step.latency
        write_atomically(folder / "most.json", json.dumps({"ms": most}).encode())

    values = step.model_dump(include={"latency", "criterion", "scope", "round_to"})
    key = key_of("latency", _VERSION, {"table": _table_key(workspace, name, precision), **values})
    found = json.loads((workspace.store.stage("latency", key, make) / "most.json").read_text())
    return replace(limit, most=found["ms"])


def latency_table(workspace: "Workspace", name: str, network: "nn.Module", precision: Precision) -> "LatencyTable":
    """Times of the network's layers, whole and with fewer channels, on this machine: a stage."""
    from dlmo.measure.layer_latency import LatencyTable, measure_table, with_rest

    shapes = _shapes(workspace, network)

    def make(folder: Path) -> None:
        from dlmo.measure.latency import measure_latency
        from dlmo.runtimes.litert.interpreter import Runner

        content = untrained_file(workspace, Recipe(name, (precision,)))
        with workspace.progress.stage(f"time the layers of {name}") as update:
            table = measure_table(shapes, _number_format(precision), update)
            whole = measure_latency([content], threads=1, open_file=Runner)[0].p50_ms
        write_atomically(folder / "table.json", with_rest(table, shapes, whole).to_json().encode())

    key = _table_key(workspace, name, precision)
    return LatencyTable.from_json((workspace.store.stage("latency", key, make) / "table.json").read_text())


def _table_key(workspace: "Workspace", name: str, precision: Precision) -> str:
    whole = file_key(workspace, Recipe(name, (precision,)))
    return key_of("latency", _VERSION, {"whole": whole, "machine": workspace.target.identity()})


def _shapes(workspace: "Workspace", network: "nn.Module") -> list[LayerShape]:
    from dlmo.techniques.channel_pruning import file_layers

    return [shape for _, shape in file_layers(network, workspace.dataset.input_shape)]


def _number_format(precision: Precision) -> str:
    """Of the arithmetic; float16 weights are widened when the file is loaded."""
    if isinstance(precision, Int8 | Mixed):
        return "int8"
    return "dynamic_int8" if isinstance(precision, DynamicInt8) else "float32"
