"""What a .tflite file says about itself: normalization and labels, as TensorFlow Lite's metadata tools write them.

The metadata is a flatbuffer (identifier M001) in one of the model's buffers; the files it names are appended to the
model as a zip archive. Tables and fields: metadata_schema.fbs of TensorFlow Lite Support.
"""

import io
import zipfile
from dataclasses import dataclass

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types
from flatbuffers.table import Table

from dlmo.data.preprocessing import Normalization
from dlmo.runtimes.litert.flatbuffer import buffer_bytes

_NAME = b"TFLITE_METADATA"
_NORMALIZATION_OPTIONS = 1  # among the kinds of process units
# Slots of the fields in their tables, in the order of the schema.
_MODEL_SUBGRAPHS = 3
_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 2, 3
_TENSOR_PROCESS_UNITS, _TENSOR_FILES = 4, 6
_UNIT_KIND, _UNIT_OPTIONS = 0, 1
_OPTIONS_MEAN, _OPTIONS_STD = 0, 1
_FILE_NAME = 0
_LARGEST_LABEL_FILE = 1 << 22  # bytes


@dataclass(frozen=True)
class Metadata:
    """What the file tells; None where it does not. labels: in the order of the outputs."""

    normalization: Normalization | None
    labels: tuple[str, ...] | None


def read_metadata(model: schema.ModelT, content: bytes) -> Metadata:
    """The metadata of a parsed model and its file. May raise anything where they are damaged."""
    buffers = [entry.buffer for entry in model.metadata or [] if entry.name == _NAME]
    packed = buffer_bytes(model, buffers[0]) if buffers else b""
    if packed[4:8] != b"M001":
        return Metadata(None, _labels(content, []))
    root = Table(bytearray(packed), flatbuffers.encode.Get(flatbuffers.packer.uoffset, packed, 0))
    graphs = _tables(root, _MODEL_SUBGRAPHS)
    inputs = _tables(graphs[0], _SUBGRAPH_INPUTS) if graphs else []
    outputs = _tables(graphs[0], _SUBGRAPH_OUTPUTS) if graphs else []
    names = [_text(file, _FILE_NAME) for file in (_tables(outputs[0], _TENSOR_FILES) if outputs else [])]
    return Metadata(_normalization(inputs[0]) if inputs else None, _labels(content, names))


def _normalization(image: Table) -> Normalization | None:
    for unit in _tables(image, _TENSOR_PROCESS_UNITS):
        kind, options = _field(unit, _UNIT_KIND), _field(unit, _UNIT_OPTIONS)
        if kind and options and unit.Get(number_types.Uint8Flags, kind) == _NORMALIZATION_OPTIONS:
            table = Table(unit.Bytes, unit.Indirect(options))
            mean, std = _numbers(table, _OPTIONS_MEAN), _numbers(table, _OPTIONS_STD)
            if mean and std and all(std):
                return Normalization(mean, std)
    return None


def _labels(content: bytes, names: list[str]) -> tuple[str, ...] | None:
    """The labels in the first of the files in the archive that is named; else in its only text file."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return None
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        texts = [name for name in members if name.endswith(".txt")]
        chosen = [name for name in names if name in members] or (texts if len(texts) == 1 else [])
        if not chosen or members[chosen[0]].file_size > _LARGEST_LABEL_FILE:
            return None
        return label_lines(archive.read(chosen[0]))


def label_lines(text: bytes) -> tuple[str, ...]:
    """One label a line; blank lines at the end do not count."""
    lines = [line.strip() for line in text.decode("utf-8-sig", errors="replace").splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)


def _field(table: Table, slot: int) -> int:
    """Where a field's value lies; 0 where it is absent."""
    offset = table.Offset(4 + 2 * slot)
    return table.Pos + offset if offset else 0


def _tables(table: Table, slot: int) -> list[Table]:
    """A field that is a vector of tables."""
    offset = table.Offset(4 + 2 * slot)
    if not offset:
        return []
    start = table.Vector(offset)
    return [Table(table.Bytes, table.Indirect(start + 4 * index)) for index in range(table.VectorLen(offset))]


def _numbers(table: Table, slot: int) -> tuple[float, ...]:
    """A field that is a vector of 32-bit floats."""
    offset = table.Offset(4 + 2 * slot)
    if not offset:
        return ()
    start = table.Vector(offset)
    flags = number_types.Float32Flags
    return tuple(float(table.Get(flags, start + 4 * index)) for index in range(table.VectorLen(offset)))


def _text(table: Table, slot: int) -> str:
    """A field that is a string."""
    offset = table.Offset(4 + 2 * slot)
    return table.String(table.Pos + offset).decode(errors="replace") if offset else ""
