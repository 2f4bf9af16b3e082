"""The files of a package, as bytes by name: made here, written by `write_parts`."""

import hashlib
import io
import json
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from dlmo import __version__
from dlmo.atomic import write_atomically
from dlmo.package.c_example import C_FILES, c_files, obstacle
from dlmo.package.run import Model
from dlmo.runtimes.litert import flatbuffer
from dlmo.runtimes.litert.interpreter import Runner, quiet
from dlmo.shipping import shipped_source
from dlmo.study.results import Result

MANIFEST = "manifest.json"
# Lies in a folder while a package is written there, and after that was interrupted.
UNFINISHED = ".dlmo-unfinished"
# The runner is dlmo's own code, so that a package treats an image exactly as training and evaluation did.
_RUNNER = {
    "run.py": "dlmo.package",
    "image.py": "dlmo.data",
    "preprocessing.py": "dlmo.data",
    "agreement.py": "dlmo.measure",
}
_GOLDEN = ("images", "inputs", "outputs")
# Every file that a package may hold beside its manifest.
FILES = (
    "model.tflite",
    "labels.txt",
    "preprocessing.json",
    "model_card.md",
    "README.md",
    *_RUNNER,
    *(f"golden/{name}.npy" for name in _GOLDEN),
    *(f"c/{name}" for name in C_FILES),
)
# Operators behind which the scores are what they were.
_SAME_VALUES = {"QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "CAST"}
_C_ROW = "| `c/` | the model as a C array, with an example for TensorFlow Lite Micro |"
_C_TEXT = """\
`c/` holds the model and two golden inputs as arrays, the class names, and `main.cc`, which replays the golden inputs
under TensorFlow Lite Micro with exactly the operators the model needs. Compile the `.cc` files with their `.h` files
into a project that has TensorFlow Lite Micro, or without it `model_data.cc` alone."""
_NO_C_TEXT = "There is no C example: {reason}."


def package_parts(
    content: bytes,
    labels: list[str],
    preprocessing: dict,
    golden_images: np.ndarray,
    card: str,
    made_by: dict,
    arena_bytes: int | None = None,
) -> dict[str, bytes]:
    """Every file of a package by its name.

    preprocessing: the document of preprocessing.json; what it says of tensors is read off the file anew.
    golden_images: uint8 N x H x W x C. made_by: see `origin`. arena_bytes: as measured by TensorFlow Lite Micro, where
    that is known.
    """
    document = preprocessing | tensor_documents(content)
    with quiet():
        model = Model(content, labels, document)
    inputs = model.prepare(golden_images)
    outputs = model.outputs(inputs)
    reason = obstacle(content)
    if reason is None and not np.isfinite(outputs).all():
        reason = "its scores are not all numbers"
    sources = {} if reason else c_files(content, labels, inputs, outputs, arena_bytes)
    texts = {
        "labels.txt": "".join(f"{name}\n" for name in labels),
        "preprocessing.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
        "model_card.md": card,
        "README.md": _readme(reason),
    } | {name: shipped_source(module, name) for name, module in _RUNNER.items()}
    parts = {"model.tflite": content} | {name: text.encode() for name, text in texts.items()}
    for name, array in zip(_GOLDEN, (golden_images, inputs, outputs)):
        parts[f"golden/{name}.npy"] = _npy(array)
    parts |= {f"c/{name}": source for name, source in sources.items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(parts.items())}
    manifest = {"dlmo": __version__, "made_by": made_by, "files": digests}
    return parts | {MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode()}


def origin(result: Result, dataset: dict) -> dict:
    """What the manifest tells of how a model was made. dataset: the run's description of its data."""
    return {
        "recipe": result.recipe,
        "seed": result.seed,
        "dataset": dataset["name"],
        "dataset_fingerprint": dataset.get("fingerprint", ""),
    }


def write_parts(folder: Path, parts: dict[str, bytes]) -> None:
    """Write a package into a folder, in place of an older one. The manifest comes last, so that what an interrupted
    write leaves is no package."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / UNFINISHED, b"")
    remove_package(folder)
    for name, data in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, data)
    (folder / UNFINISHED).unlink(missing_ok=True)


def remove_package(folder: Path) -> None:
    """Remove what `write_parts` writes, the manifest first; whatever else lies there stays."""
    for name in (MANIFEST, *FILES):
        (folder / name).unlink(missing_ok=True)
    for name in ("c", "golden"):
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()


def tensor_documents(content: bytes) -> dict:
    """Type and quantization of a file's input and output, and what the output holds."""
    runner = Runner(content)
    document = {}
    for name, tensor in (("input_tensor", runner.input), ("output_tensor", runner.output)):
        scale, zero_point = tensor["quantization"]
        kind = np.dtype(tensor["dtype"]).name
        document[name] = {"dtype": kind, "scale": float(scale), "zero_point": int(zero_point)}
    document["output_tensor"]["holds"] = "shares" if _ends_with_softmax(content) else "logits"
    return document


def _ends_with_softmax(content: bytes) -> bool:
    model = flatbuffer.read(content)
    names = [flatbuffer.operator_name(model, operator) for operator in model.subgraphs[0].operators]
    while names and names[-1] in _SAME_VALUES:
        names.pop()
    return names[-1:] == ["SOFTMAX"]


def _readme(reason: str | None) -> str:
    text = _NO_C_TEXT.format(reason=reason) if reason else _C_TEXT
    template = Template((resources.files("dlmo.package") / "templates" / "README.md").read_text())
    readme = template.substitute(c_row="" if reason else _C_ROW, c_text=text)
    return readme.replace("\n\n| `manifest", "\n| `manifest")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
