"""Networks in .pt2 files (torch.export), read without running anything that may be hidden in one.

torch.export.load trusts its file: it unpickles, evaluates symbolic expressions and calls operators by name. So the
archive is looked through first, and loaded only if it holds nothing but plain tensors and ATen operators.
"""

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx

from dlmo.errors import UserError
from dlmo.networks.modular import for_any_layout

_OPERATORS = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.getitem")
_SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=True)*\)|\d+")


@dataclass(frozen=True)
class ExportedNetwork:
    """graph: takes batch x channels x size. batch: None where it may be any."""

    graph: fx.GraphModule
    batch: int | None
    channels: int
    size: tuple[int, int]


def read_exported(path: Path) -> ExportedNetwork:
    """Raises UserError for a file that could run code, and for one that is no network of one image tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            document = _checked(archive, path)
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, StopIteration) as error:
        raise UserError(f"{path} is no .pt2 file of torch.export.save: {error}") from None
    try:
        program = torch.export.load(path)
        graph = for_any_layout(fx.symbolic_trace(program.module()))
    except Exception as error:  # whatever a malformed program leads the reader to
        raise UserError(f"{path} cannot be loaded: {(str(error).splitlines() or ['empty'])[0]}") from None
    if any(_still_learns(node) for node in graph.graph.nodes):
        raise UserError(f"{path} was exported while training; call .eval() on the network before torch.export")
    batch, channels, height, width = _input_shape(document, path)
    if batch not in (None, 1):
        raise UserError(f"{path} takes batches of {batch}; export it for one image, or for any number")
    if channels not in (1, 3) or height is None or width is None:
        raise UserError(f"{path} takes no images of 1 or 3 channels and a fixed size; export it for those")
    return ExportedNetwork(graph, batch, channels, (height, width))


def _still_learns(node: fx.Node) -> bool:
    """Whether it drops at random, or normalizes by the batch it is given."""
    name = getattr(node.target, "__name__", "").partition(".")[0]
    if name not in ("batch_norm", "dropout", "_native_batch_norm_legit", "native_dropout"):
        return False
    names = [argument.name for argument in node.target._schema.arguments]
    given = dict(zip(names, node.args)) | dict(node.kwargs)
    return any(given.get(flag) is True for flag in ("train", "training"))


def _checked(archive: zipfile.ZipFile, path: Path) -> dict:
    """The program's description, after everything in the archive that could run code was refused."""
    names = archive.namelist()
    for name in names:
        if name.endswith("_config.json"):
            payloads = json.loads(archive.read(name))["config"].values()
            if any(payload["use_pickle"] for payload in payloads):
                raise UserError(f"{path}: {name} names pickled objects, which could run code")
        elif name.endswith(".pt"):
            with archive.open(name) as file:
                _check_plain(file, path, name)
    document = json.loads(archive.read(next(name for name in names if name.endswith("models/model.json"))))
    if document.get("guards_code"):
        raise UserError(f"{path} carries code of its own (guards); export it without dynamic sizes")
    for key, value in _leaves(document):
        if key == "target" and not _OPERATORS.fullmatch(value):
            raise UserError(f'{path} calls "{value}"; only ATen operators are allowed')
        if key == "expr_str" and not _SYMBOL.fullmatch(value):
            raise UserError(f'{path} computes its sizes ("{value}"); export it with fixed sizes')
    return document


def _check_plain(file, path: Path, name: str) -> None:
    try:
        torch.load(io.BytesIO(file.read()), weights_only=True)
    except Exception:
        raise UserError(f"{path}: {name} holds Python objects, which could run code") from None


def _leaves(value, key: str = ""):
    """Every text in a JSON document with the key it stands under."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, key)
    elif isinstance(value, str):
        yield key, value


def _input_shape(document: dict, path: Path) -> tuple[int | None, int, int | None, int | None]:
    """Sizes of the one input, None where they are free."""
    graph = document["graph_module"]["graph"]
    signature = document["graph_module"]["signature"]["input_specs"]
    inputs = [entry["user_input"]["arg"]["as_tensor"]["name"] for entry in signature if "user_input" in entry]
    sizes = graph["tensor_values"][inputs[0]]["sizes"] if len(inputs) == 1 else ()
    if len(sizes) != 4:
        raise UserError(f"{path} does not take one tensor, batch x channels x height x width")
    return tuple(size.get("as_int") for size in sizes)
