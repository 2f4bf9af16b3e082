"""The folder of a run: what it may replace, and what an older package leaves behind."""

import json

import pytest

from dlmo.errors import UserError
from dlmo.package.folder import check_free
from dlmo.package.parts import FILES, MANIFEST, remove_package

RUN = {"dataset": {}, "machine": {}, "results": [], "notes": []}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {".DS_Store": ""},
        {"results.json": json.dumps(RUN), "notes.txt": "mine"},
        {"results.json": json.dumps({"runs": {}, "findings": [], "speeds": {}}), "study.md": ""},
        {"cifar10/results.json": json.dumps(RUN)},
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
    ],
)
def test_a_folder_of_other_files_is_refused(files, tmp_path):
    write(tmp_path, files)
    with pytest.raises(UserError, match="holds files that are not dlmo's, such as"):
        check_free(tmp_path)
    assert {path: (tmp_path / path).read_text() for path in files} == files


def test_an_older_package_goes_and_other_files_stay(tmp_path):
    write(tmp_path, dict.fromkeys([*FILES, MANIFEST], "old"))
    write(tmp_path, {"c/mine.c": "", "mine.txt": ""})
    remove_package(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["c/mine.c", "mine.txt"] and not (tmp_path / "golden").exists()


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
