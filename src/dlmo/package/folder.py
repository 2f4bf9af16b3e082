"""Writing a run's folder: the chosen model with all it needs, every artifact, the reports."""

import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dlmo.atomic import write_atomically
from dlmo.data.dataset import Dataset
from dlmo.errors import UserError
from dlmo.measure.accuracy import right_answers
from dlmo.package.parts import MANIFEST, origin, package_parts, remove_package, tensor_documents, write_parts
from dlmo.study.results import Mistake, Run
from dlmo.study.run import Outcome

_GOLDEN_IMAGES = 8
_SHOWN_MISTAKES = 12
_ARTIFACTS = "artifacts"
# Files that tell a folder of dlmo's, with what each holds: of a run, of `dlmo study paper`, of a package.
_KNOWN_BY = (
    ("results.json", {"dataset", "machine", "results", "notes"}),
    ("results.json", {"runs", "findings", "speeds"}),
    (MANIFEST, {"dlmo", "files"}),
)


def check_writable(out: Path) -> None:
    """Raise UserError unless `out` is a folder that can be written, or can be made. Creates nothing."""
    if os.path.lexists(out) and not os.path.isdir(out):
        raise UserError(f"--out {out} is a file; name a folder")
    existing = out
    try:
        while not existing.exists():
            existing = existing.parent
        tempfile.TemporaryDirectory(dir=existing).cleanup()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"--out {out}: cannot write in {existing} ({reason}); name another folder") from None


def check_free(out: Path) -> None:
    """Raise UserError where `out` holds what dlmo did not write: a run replaces files there."""
    if not out.is_dir() or _is_run(out):
        return
    others = [entry for entry in out.iterdir() if not entry.name.startswith(".") and not _is_ours(entry)]
    if others:
        raise UserError(
            f"--out {out} holds files that are not dlmo's, such as {others[0].name}; name a new folder, an empty one "
            "or that of an earlier run"
        )


def _is_ours(entry: Path) -> bool:
    """Of what a killed job leaves first: a folder without content, or the runs of `dlmo study paper`.

    The run of another command that lies in a folder for runs is not to be replaced by one of a study's.
    """
    if not entry.is_dir() or (any(entry.iterdir()) and not _is_run(entry)):
        return False
    dataset = _document(entry / "results.json").get("dataset")
    command = dataset.get("command", "") if isinstance(dataset, dict) else ""
    return not command or command.startswith("dlmo study")


def _is_run(folder: Path) -> bool:
    """Whether dlmo wrote this folder, or was interrupted when it did."""
    if (folder / _ARTIFACTS / "preprocessing.json").exists():
        return True
    return any(known <= _document(folder / name).keys() for name, known in _KNOWN_BY)


def holds_package(folder: Path) -> bool:
    """Whether the manifest that lies here is one of dlmo's: other programs have a manifest.json too."""
    return {"dlmo", "files"} <= _document(folder / MANIFEST).keys()


def _document(path: Path) -> dict:
    """What a JSON file holds; empty where there is none."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def clear(out: Path) -> None:
    """Remove what an earlier run, or an earlier `dlmo study paper`, wrote into this very folder; all else stays."""
    if "runs" in _document(out / "results.json"):
        for old in (out / "study.md", out / "study.csv", *out.glob("study-*.svg")):
            old.unlink(missing_ok=True)
    for name in ("results.json", "results.csv", "report.html"):
        (out / name).unlink(missing_ok=True)
    for old in (out / _ARTIFACTS).glob("*.tflite"):
        old.unlink()
    remove_package(out)


def holds_model(folder: Path) -> bool:
    """Whether an earlier run left a model here."""
    return (folder / MANIFEST).exists() and (folder / "model.tflite").exists()


def write_run(
    out: Path, run: Run, best: Outcome | None, outcomes: Sequence[Outcome], dataset: Dataset, group_by: str | None
) -> None:
    """Write the folder of the contract: a package of the best file, every artifact, the reports.

    best: None where nothing was made; there are reports alone then.

    Files are written whole one by one, `results.json` last.

    Files of an earlier run in the same folder are removed first: no file speaks for another run.
    Raises UserError when the folder cannot be written.
    """
    try:
        _write_all(out, run, best, outcomes, dataset, group_by)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(f"--out {out}: {error.strerror}{where}; the work is kept, run it again") from None


def _write_all(
    out: Path, run: Run, best: Outcome | None, outcomes: Sequence[Outcome], dataset: Dataset, group_by: str | None
) -> None:
    from dlmo.report.model_card import model_card

    artifacts = out / _ARTIFACTS
    artifacts.mkdir(parents=True, exist_ok=True)
    # First what `check_free` knows the folder by. The files in `artifacts` differ in their tensors' types, which each
    # file tells itself.
    document = preprocessing_document(dataset, group_by)
    _write_text(artifacts / "preprocessing.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    _write_text(artifacts / "labels.txt", "".join(f"{name}\n" for name in dataset.classes))
    clear(out)
    if best is None:
        _write_reports(out, run)
        return
    for outcome in outcomes:
        write_atomically(artifacts / outcome.result.artifact, outcome.content)
    golden = dataset.test.spread(_GOLDEN_IMAGES).images
    arena = best.result.arena_bytes
    made_by = origin(best.result, run.dataset)
    parts = package_parts(best.content, list(dataset.classes), document, golden, model_card(run), made_by, arena)
    write_parts(out, parts)
    _write_reports(out, run)


def _write_reports(out: Path, run: Run) -> None:
    from dlmo.report.html import render

    _write_text(out / "report.html", render(run))
    _write_text(out / "results.csv", run.to_csv())
    _write_text(out / "results.json", json.dumps(run.to_json(), indent=1, ensure_ascii=False) + "\n")


def preprocessing_document(dataset: Dataset, group_by: str | None) -> dict:
    """From an image to the model's input, and how the data was split."""
    return dataset.preprocessing.to_json() | {
        "formula": "float: (pixel - 128) / 128; int8: pixel - 128",
        "split": {"seed": 0, "group_by": group_by},
    }


def mistakes_of(outcome: Outcome, dataset: Dataset) -> tuple[Mistake, ...]:
    """The most confident wrong answers of a file on the test images."""
    scores = outcome.test_scores
    if tensor_documents(outcome.content)["output_tensor"]["holds"] == "shares":
        shares = scores
    else:
        shifted = np.exp(scores - scores.max(1, keepdims=True))
        shares = shifted / shifted.sum(1, keepdims=True)
    # Scores with a NaN are no answer, of which nothing is sure.
    shares, told, answers = np.nan_to_num(shares), ~np.isnan(scores).any(1), scores.argmax(1)
    wrong = np.flatnonzero(~right_answers(scores, dataset.test.labels))
    worst = wrong[np.argsort(-shares[wrong, answers[wrong]], kind="stable")][:_SHOWN_MISTAKES]
    return tuple(
        Mistake(
            png=_png(dataset.test.images[index]),
            truth=dataset.classes[dataset.test.labels[index]],
            answer=dataset.classes[answers[index]] if told[index] else "no number",
            confidence=float(shares[index, answers[index]]),
            name=dataset.test.names[index],
        )
        for index in worst
    )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, text.encode())
