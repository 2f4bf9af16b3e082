"""The folder of a run: what it may replace, and what an older package leaves behind."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dlmo.errors import UserError
from dlmo.package.folder import check_free, clear, mistakes_of
from dlmo.package.parts import FILES, MANIFEST, remove_package

TENSORFLOW = Path(__file__).parents[1] / "measure" / "tensorflow"
RUN = {"dataset": {}, "machine": {}, "results": [], "notes": []}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {".DS_Store": ""},
        {"results.json": json.dumps(RUN), "notes.txt": "mine"},
        {"results.json": json.dumps({"runs": {}, "findings": [], "speeds": {}}), "study.md": ""},
        {"cifar10/results.json": json.dumps(RUN | {"dataset": {"command": "dlmo study cifar10:x"}})},
        {MANIFEST: json.dumps({"dlmo": "0.1.0", "files": {}}), "README.md": ""},
        {"artifacts/preprocessing.json": "{}", "artifacts/a.tflite": "", "model.tflite.part": ""},
    ],
)
def test_new_folders_and_those_of_earlier_runs_are_free(files, tmp_path):
    write(tmp_path, files)
    check_free(tmp_path)
    check_free(tmp_path / "not there yet")
    (tmp_path / "killed at once" / "artifacts").mkdir(parents=True)
    check_free(tmp_path / "killed at once")


@pytest.mark.parametrize(
    "files",
    [
        {"c/main.c": "int main;"},
        {"README.md": "my project", "run.py": ""},
        {"results.json": "[1, 2]", "manifest.json": '{"name": "a web page"}'},
        {"results.json": "no json"},
        {"results.json": json.dumps({"results": [], "dataset": "mine"}), "model.tflite": "mine"},
        {MANIFEST: json.dumps({"dlmo": "how I used it"}), "run.py": ""},
        {"cifar10/results.json": json.dumps(RUN), "study.md": "my own"},
        {"artifacts/mine.tflite": ""},
        {"artifacts": "a file"},
        {
            "cifar10/results.json": json.dumps(
                RUN | {"dataset": {"command": "dlmo optimize cifar10:x --out runs/cifar10"}}
            )
        },
    ],
)
def test_a_folder_of_other_files_is_refused(files, tmp_path):
    write(tmp_path, files)
    with pytest.raises(UserError, match="holds files that are not dlmo's, such as"):
        check_free(tmp_path)
    assert {path: (tmp_path / path).read_text() for path in files} == files


@pytest.mark.parametrize("study", [False, True])
def test_no_file_speaks_for_another_run(study, tmp_path):
    document = {"runs": {}, "findings": [], "speeds": {}} if study else RUN
    old = ["model.tflite", MANIFEST, "report.html", "results.csv", "artifacts/a.tflite"]
    write(tmp_path, dict.fromkeys(old, "old") | {"results.json": json.dumps(document), "study.md": "", "notes.txt": ""})
    clear(tmp_path)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == ({"notes.txt"} if study else {"notes.txt", "study.md"})


def test_an_older_package_goes_and_other_files_stay(tmp_path):
    write(tmp_path, dict.fromkeys([*FILES, MANIFEST], "old"))
    write(tmp_path, {"c/mine.c": "", "mine.txt": ""})
    remove_package(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["c/mine.c", "mine.txt"] and not (tmp_path / "golden").exists()


@pytest.mark.parametrize(
    "name, share", [("float_softmax", 0.8), ("float", np.exp(0.8) / (np.exp(0.8) + 8 + np.exp(0.2)))]
)
def test_how_sure_a_wrong_answer_was_depends_on_what_the_file_gives(name, share, digits):
    scores = np.zeros((len(digits.test), 10), np.float32)
    right = digits.test.labels
    scores[np.arange(len(right)), right] = 1
    scores[5] = 0
    scores[5, [right[5], (right[5] + 1) % 10]] = 0.2, 0.8
    outcome = SimpleNamespace(test_scores=scores, content=(TENSORFLOW / f"{name}.tflite").read_bytes())
    (mistake,) = mistakes_of(outcome, digits)
    assert mistake.confidence == pytest.approx(share)
    assert (mistake.truth, mistake.answer) == (str(right[5]), str((right[5] + 1) % 10))


def test_an_answer_that_is_no_number_is_wrong_and_unsure(digits):
    scores = np.zeros((len(digits.test), 10), np.float32)
    scores[np.arange(len(scores)), digits.test.labels] = 1
    scores[3] = np.nan
    outcome = SimpleNamespace(test_scores=scores, content=(TENSORFLOW / "float.tflite").read_bytes())
    (mistake,) = mistakes_of(outcome, digits)
    assert (mistake.truth, mistake.answer, mistake.confidence) == (str(digits.test.labels[3]), "no number", 0)


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
