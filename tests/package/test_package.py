"""What lies in a package, the runner in it, archives of it, and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from dlmo.errors import UserError
from dlmo.package import opened
from dlmo.package.make import make_package
from dlmo.package.opened import open_package
from dlmo.package.parts import FILES, MANIFEST, UNFINISHED
from dlmo.package.predict import Unreadable, predict, predictions
from dlmo.package.verify import verify

INT8 = "resnet8@0.25-int8-seed0.tflite"
PLAIN_PARTS = {
    "model.tflite", "labels.txt", "preprocessing.json", "model_card.md", "README.md", "run.py", "image.py",
    "preprocessing.py", "agreement.py", "golden/images.npy", "golden/inputs.npy", "golden/outputs.npy", "manifest.json",
}  # fmt: skip
C_PARTS = {
    f"c/{name}" for name in ("main.cc", "model_data.h", "model_data.cc", "golden_data.h", "golden_data.cc", "labels.h")
}


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_manifest(folder, name):
    """A manifest that vouches for one file alone."""
    (folder / "manifest.json").write_text(json.dumps({"files": {name: digest(folder / name)}}))


def alone(*arguments, folder):
    """Python without dlmo on its path: a package's runner has to do without."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    guard = "import sys; sys.modules['dlmo'] = None; import runpy; sys.argv = sys.argv[1:]; "
    guard += "sys.path[0] = sys.argv[0].rpartition('/')[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-c", guard, *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, env=environment,
    )  # fmt: skip


@pytest.fixture
def copy(int8_package, tmp_path):
    """A package to be damaged."""
    return shutil.copytree(int8_package, tmp_path / "copy")


def test_a_package_holds_its_parts_and_nothing_else(int8_package, small_run):
    assert names(int8_package) == PLAIN_PARTS | C_PARTS
    assert (int8_package / "model.tflite").read_bytes() == (small_run / "artifacts" / INT8).read_bytes()
    manifest = json.loads((int8_package / "manifest.json").read_text())["files"]
    assert set(manifest) == set(FILES), "what `remove_package` removes"
    assert set(manifest) == (PLAIN_PARTS | C_PARTS) - {"manifest.json"}
    for name, expected in manifest.items():
        assert digest(int8_package / name) == expected
    card = (int8_package / "model_card.md").read_text()
    assert "`resnet8@0.25 > int8`" in card and "taken by name" in card
    document = json.loads((int8_package / "preprocessing.json").read_text())
    assert document["output_tensor"]["holds"] == "logits" and document["input_tensor"]["dtype"] == "int8"


def test_a_run_is_a_package_itself(small_run, digit_files):
    assert names(small_run) >= PLAIN_PARTS
    assert verify(small_run).passed
    assert len(predict(small_run, digit_files[:3])) == 3


def test_what_microcontrollers_cannot_run_has_no_c_example_and_the_readme_says_why(small_run, tmp_path):
    out = make_package(small_run, tmp_path / "half", "resnet8@0.25-float16-seed0.tflite")
    assert names(out) == PLAIN_PARTS
    assert (
        "There is no C example: it has weights or activations that are neither float32 nor int8"
        in (out / "README.md").read_text()
    )
    older = shutil.copytree(small_run, tmp_path / "older")
    (older / "results.json").unlink()  # what is left is a package, which may be replaced
    (older / "c").mkdir(exist_ok=True)
    (older / "c" / "golden_data.cc").touch()
    make_package(small_run, older, "resnet8@0.25-float16-seed0.tflite")
    assert not (older / "c").exists()


def test_the_manifest_tells_how_the_model_was_made(small_run, int8_package):
    run = json.loads((small_run / "results.json").read_text())
    best = run["choice"] or max(
        run["results"], key=lambda result: (result["validation_accuracy"], -result["size_bytes"])
    )
    for package, recipe in ((small_run, best["recipe"]), (int8_package, "resnet8@0.25 > int8")):
        made_by = json.loads((package / "manifest.json").read_text())["made_by"]
        assert made_by["recipe"] == recipe and made_by["seed"] == 0
        assert made_by["dataset_fingerprint"] == run["dataset"]["fingerprint"] != ""


def test_a_zip_of_other_files_is_not_replaced(small_run, tmp_path):
    photos = tmp_path / "photos.zip"
    with zipfile.ZipFile(photos, "w") as archive:
        archive.writestr("cats/1.png", b"")
    before = photos.read_bytes()
    with pytest.raises(UserError, match="photos.zip is a file that dlmo did not make"):
        make_package(small_run, photos)
    assert photos.read_bytes() == before
    made = make_package(small_run, tmp_path / "model.zip")
    assert verify(make_package(small_run, made)).passed, "an older package may be replaced"


def test_the_runner_needs_no_dlmo_and_answers_as_dlmo_does(int8_package, small_run, digit_files, tmp_path):
    from PIL import Image

    odd = tmp_path / "odd.jpg"
    pixels = np.random.default_rng(1).integers(0, 256, (700, 310, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(odd, exif=exif)
    palette = tmp_path / "palette.gif"
    Image.fromarray(pixels[:9, :30]).quantize(7).save(palette, transparency=1)
    files = [*digit_files[:10], odd, palette]
    for package in (int8_package, small_run):
        done = alone(package / "run.py", "--top", "10", *files, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        for line, wanted in zip(done.stdout.splitlines(), predict(package, files, top=10), strict=True):
            best = ", ".join(f"{name} {share:.1%}" for name, share in zip(wanted.classes, wanted.shares))
            assert line == f"{wanted.image}: {best}"
        assert alone(package / "run.py", "--self-test", folder=tmp_path).stdout.rstrip().endswith("passed")


def test_the_runner_tells_what_is_wrong(copy, digit_files, tmp_path):
    done = alone(copy / "run.py", tmp_path / "none.png", folder=tmp_path)
    assert done.returncode == 2 and "none.png left out" in done.stderr
    outputs = np.load(copy / "golden" / "outputs.npy")
    np.save(copy / "golden" / "outputs.npy", outputs[:, ::-1])
    done = alone(copy / "run.py", "--self-test", folder=tmp_path)
    assert done.returncode == 1 and "FAILED" in done.stdout
    done = alone(copy / "run.py", digit_files[0], "--top", "0", folder=tmp_path)
    assert done.returncode == 2 and "--top" in done.stderr
    full = subprocess.run(
        f"{sys.executable} {copy / 'run.py'} {digit_files[0]} | true", shell=True, capture_output=True, text=True
    )
    assert "Traceback" not in full.stderr and "ignored" not in full.stderr
    (copy / "labels.txt").write_text("one\ntwo\n")
    done = alone(copy / "run.py", digit_files[0], folder=tmp_path)
    assert done.returncode == 2 and "cannot be used" in done.stderr and "Traceback" not in done.stderr


def test_verify_measures_the_difference(copy):
    assert verify(copy).replay.largest_difference == 0
    outputs = np.load(copy / "golden" / "outputs.npy")
    moved = outputs.astype(int)
    moved[3, 0] += 100 if outputs[3, 0] < 0 else -100
    np.save(copy / "golden" / "outputs.npy", moved.astype(np.int8))
    write_manifest(copy, "model.tflite")
    found = verify(copy)
    scale = json.loads((copy / "preprocessing.json").read_text())["output_tensor"]["scale"]
    assert not found.passed
    assert found.replay.largest_difference == pytest.approx(100 * scale, rel=1e-5)
    assert found.replay.same_inputs == 8


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: flip_a_byte(folder / "model.tflite"), "model.tflite is damaged"),
        (lambda folder: flip_a_byte(folder / "c" / "main.cc"), "c/main.cc is damaged"),
        (lambda folder: (folder / "golden" / "inputs.npy").unlink(), "golden/inputs.npy is missing"),
        (lambda folder: (folder / "labels.txt").unlink(), "is no package: labels.txt missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("[1, 2]"), "manifest.json is damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"files'), "manifest.json is damaged"),
    ],
)
def test_damage_is_an_error_in_one_line(copy, change, message):
    change(copy)
    with pytest.raises(UserError, match=message) as caught:
        verify(copy)
    assert "\n" not in str(caught.value)


def test_an_array_with_code_in_it_is_not_loaded(copy, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(copy / "golden" / "inputs.npy", np.array([Evil()], object), allow_pickle=True)
    write_manifest(copy, "model.tflite")
    with pytest.raises(UserError, match="golden/inputs.npy is no array"):
        verify(copy)
    assert not (tmp_path / "ran").exists()


def test_a_zip_is_as_good_as_its_folder(small_run, int8_package, digit_files, tmp_path):
    first = make_package(small_run, tmp_path / "digits.zip", INT8)
    again = make_package(small_run, tmp_path / "b" / "digits.zip", INT8)
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert set(archive.namelist()) == {f"digits/{name}" for name in PLAIN_PARTS | C_PARTS}
        assert {entry.external_attr >> 16 & 0o777 for entry in archive.infolist()} == {0o644}
    assert verify(first).replay == verify(int8_package).replay
    assert predict(first, digit_files[:5]) == predict(int8_package, digit_files[:5])


def pack(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../evil", "p/../../evil", "/tmp/evil", "C:\\evil", "..\\evil"])
def test_archives_that_point_outside_are_refused(int8_package, digit_files, tmp_path, name):
    good = {f"p/{part}": (int8_package / part).read_bytes() for part in names(int8_package)}
    package = pack(tmp_path / "evil.zip", good | {name: b"x"})
    before = set(tmp_path.parent.rglob("*"))
    for use in (verify, lambda path: predict(path, digit_files[:1])):
        with pytest.raises(UserError, match="points outside the archive"):
            use(package)
    assert set(tmp_path.parent.rglob("*")) == before


def test_links_bombs_and_damage_in_archives_are_refused(int8_package, tmp_path, monkeypatch):
    link = zipfile.ZipInfo("p/labels.txt")
    link.external_attr = 0o120777 << 16
    with pytest.raises(UserError, match="is a link"):
        verify(pack(tmp_path / "link.zip", {link: "/etc/passwd"}))
    monkeypatch.setattr(opened, "MAX_PACKAGE_BYTES", 2**20)
    with pytest.raises(UserError, match="unpacks to more than"):
        verify(pack(tmp_path / "bomb.zip", {"model.tflite": bytes(2**20 + 1)}))
    (tmp_path / "text.zip").write_bytes(b"this is text")
    with pytest.raises(UserError, match="cannot be read as an archive"):
        verify(tmp_path / "text.zip")
    with pytest.raises(UserError, match="is no package: labels.txt, preprocessing.json missing"):
        verify(pack(tmp_path / "half.zip", {"model.tflite": b"x"}))
    for path in (tmp_path / "nowhere", tmp_path / "nowhere.zip"):
        with pytest.raises(UserError, match="does not exist"):
            verify(path)


def test_who_ships_what_nobody_chose_is_told(small_run, tmp_path):
    told = []
    make_package(small_run, tmp_path / "most-accurate", tell=told.append)
    (note,) = told
    assert note.startswith("the run chose no model (it was not asked to): this is its most accurate one, resnet8@0.25")
    refused = shutil.copytree(small_run, tmp_path / "run")
    document = json.loads((refused / "results.json").read_text())
    (refused / "results.json").write_text(json.dumps(document | {"budget": {"max size": "1 KB"}}))
    make_package(refused, tmp_path / "refused", tell=told.append)
    assert "(no candidate meets the budget)" in told[1]
    make_package(small_run, tmp_path / "named", INT8, told.append)
    assert len(told) == 2


def test_only_an_older_package_is_replaced(small_run, int8_package, tmp_path):
    out = make_package(small_run, tmp_path / "out", INT8)
    make_package(small_run, out, INT8)
    assert verify(out).passed
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.tflite").touch()  # named like a part of a package, but somebody else's
    (tmp_path / "webapp").mkdir()
    (tmp_path / "webapp" / "manifest.json").write_text('{"name": "photos", "icons": []}')
    for folder in (tmp_path / "mine", tmp_path / "export", tmp_path / "webapp", small_run):
        before = names(folder)
        with pytest.raises(UserError, match="holds other files"):
            make_package(small_run, folder, INT8)
        assert names(folder) == before
    (out / MANIFEST).unlink()  # as a write that was interrupted leaves it
    (out / UNFINISHED).touch()
    (out / "run.py").rename(out / "run.py.part")
    make_package(small_run, out, INT8)
    assert verify(out).passed and not (out / UNFINISHED).exists()
    with pytest.raises(UserError, match="has no artifact .* it has resnet8@0.25-float32"):
        make_package(small_run, tmp_path / "new", "../../etc/passwd")
    with pytest.raises(UserError, match="holds no results.json: name the folder that"):
        make_package(int8_package, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_folders_stand_for_their_images_and_bad_files_are_told(int8_package, digit_files, tmp_path):
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    shutil.copy(digit_files[0], folder / "b.png")
    shutil.copy(digit_files[1], folder / "deeper" / "a.PNG")
    shutil.copy(digit_files[2], folder / "c")  # what it is, its content tells
    (folder / "notes.txt").write_text("no image, and not named like one")
    (folder / "a.png").write_bytes(b"not an image")
    found = list(predictions(int8_package, [folder, tmp_path / "missing.png"]))
    assert [entry.image.removeprefix(str(tmp_path)) for entry in found] == [
        "/images/a.png", "/images/b.png", "/images/c", "/images/deeper/a.PNG", "/missing.png",
    ]  # fmt: skip
    assert found[0] == Unreadable(str(folder / "a.png"), "no image of a known format")
    assert "No such file" in found[4].reason
    assert found[2].classes == predict(int8_package, digit_files[2:3])[0].classes
    assert found[1].classes == predict(int8_package, digit_files[:1])[0].classes
    with pytest.raises(UserError, match="no image of a known format"):
        predict(int8_package, [folder])


def test_a_folder_that_cannot_be_read_is_told_as_a_file_is(int8_package, digit_files, tmp_path, monkeypatch):
    from dlmo.data import files

    def closed(folder):
        raise UserError(f"{folder}: cannot be read (Permission denied)")

    monkeypatch.setattr(files, "files_below", closed)
    found = list(predictions(int8_package, [tmp_path, digit_files[0]]))
    assert "Permission denied" in found[0].reason and found[1].classes


def test_a_file_may_be_named_like_somebodys_home(int8_package, digit_files, tmp_path, monkeypatch):
    shutil.copy(digit_files[0], tmp_path / "~scan.png")
    monkeypatch.chdir(tmp_path)
    assert predict(int8_package, ["~scan.png"])[0].classes


def test_a_zip_named_like_a_hidden_file_can_be_read(small_run, tmp_path):
    assert verify(make_package(small_run, tmp_path / ".photos.zip", INT8)).passed


def test_another_normalization_beside_a_model_is_not_ignored(copy, digit_files, tmp_path):
    document = json.loads((copy / "preprocessing.json").read_text())
    document["normalize"] = {"offset": 0, "scale": 255}
    (copy / "preprocessing.json").write_text(json.dumps(document))
    (copy / MANIFEST).unlink()
    with pytest.raises(UserError, match="normalize must have offset 128 and scale 128"):
        predict(copy, digit_files[:1])
    done = alone(copy / "run.py", digit_files[0], folder=tmp_path)
    assert done.returncode == 2 and "normalize" in done.stderr and "Traceback" not in done.stderr


def test_linked_folders_are_looked_into_and_hidden_ones_are_not(int8_package, digit_files, tmp_path):
    for name in ("folder", "elsewhere", "folder/.thumbnails"):
        (tmp_path / name).mkdir()
        shutil.copy(digit_files[0], tmp_path / name / "a.png")
    (tmp_path / "folder" / "more").symlink_to(tmp_path / "elsewhere")
    found = predict(int8_package, [tmp_path / "folder"])
    assert [entry.image.removeprefix(str(tmp_path)) for entry in found] == ["/folder/a.png", "/folder/more/a.png"]


def test_many_processes_answer_as_one_in_order(int8_package, digit_files, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    files = [*digit_files, bad, *digit_files[:30]]
    one, three = (list(predictions(int8_package, files, 10, workers)) for workers in (1, 3))
    assert one == three
    assert [entry.image for entry in one] == list(map(str, files))
    assert sum(isinstance(entry, Unreadable) for entry in one) == 1


def test_a_script_that_has_torch_and_no_main_guard_predicts_too(int8_package, digit_files, tmp_path):
    assert len(digit_files) > 64, "few files need no helpers"
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, torch, dlmo\n"
        "print('begun')\n"
        "print(len(dlmo.predict(sys.argv[1], sys.argv[2:])))\n"
    )  # fmt: skip
    done = subprocess.run([sys.executable, script, int8_package, *digit_files], capture_output=True, text=True)
    assert done.stdout.split() == ["begun", str(len(digit_files))], done.stderr


def test_the_command_names_bad_files_and_goes_on(int8_package, digit_files, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    command = [sys.executable, "-m", "dlmo", "predict", int8_package]
    done = subprocess.run([*command, bad, *digit_files], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == f"dlmo: left out {bad}: empty file"
    wanted = predict(int8_package, digit_files)
    assert [line.partition(" ")[0] for line in done.stdout.splitlines()] == [f"{entry.image}:" for entry in wanted]
    done = subprocess.run([*command, bad, "--json"], capture_output=True, text=True)
    assert done.returncode == 2 and "no image could be read" in done.stderr
    assert json.loads(done.stdout) == [{"image": str(bad), "error": "empty file"}]


def test_what_is_no_number_is_null_in_json(capsys):
    from dlmo import cli

    cli._print_json({"shares": [float("nan"), 0.5], "largest": float("inf"), "name": "cat"})
    assert json.loads(capsys.readouterr().out) == {"shares": [None, 0.5], "largest": None, "name": "cat"}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_answers_that_cannot_be_written_are_told_in_one_line(int8_package, digit_files):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dlmo", "predict", int8_package, digit_files[0]],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "No space left" in done.stderr


def test_verify_and_package_on_the_command_line(small_run, tmp_path):
    def dlmo(*arguments):
        return subprocess.run([sys.executable, "-m", "dlmo", *map(str, arguments)], capture_output=True, text=True)

    out = tmp_path / "digits.zip"
    assert dlmo("package", small_run, "--out", out, "--artifact", INT8).stdout == f"{out}\n"
    done = dlmo("verify", out, "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["passed"] and document["vectors"] == document["same_answers"] == 8
    assert document["files"] == len(PLAIN_PARTS | C_PARTS) - 1
    folder = make_package(small_run, tmp_path / "folder", INT8)
    np.save(folder / "golden" / "outputs.npy", np.load(folder / "golden" / "outputs.npy")[:, ::-1])
    write_manifest(folder, "labels.txt")
    assert dlmo("verify", folder).returncode == 1
    (folder / "labels.txt").write_text("x")
    done = dlmo("verify", folder)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "labels.txt is damaged" in done.stderr


def test_shares_are_the_softmax_of_the_scores(small_run, digit_files, digits):
    from dlmo.runtimes.litert.interpreter import predict as scores_of

    answer = predict(small_run, digit_files[:1], top=10)[0]
    scores = scores_of((small_run / "model.tflite").read_bytes(), digits.test.images[:1])[0]
    wanted = np.exp(scores - scores.max())
    wanted = dict(zip(digits.classes, wanted / wanted.sum()))
    for name, share in zip(answer.classes, answer.shares):
        assert share == pytest.approx(wanted[name], abs=1e-5)
    assert sum(answer.shares) == pytest.approx(1, abs=1e-5)


def test_predicting_imports_neither_torch_nor_the_quantizer(int8_package, digit_files):
    probe = "import sys; from dlmo.package.predict import predict; predict(sys.argv[1], sys.argv[2:]); "
    probe += (
        "print([m for m in ('torch', 'litert_torch', 'ai_edge_quantizer', 'scipy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, int8_package, digit_files[0]], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_open_package_reads_no_file_outside_the_package(int8_package):
    with open_package(int8_package) as package, pytest.raises(UserError, match="is missing"):
        package.read("../run/results.json")
