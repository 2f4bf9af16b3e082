"""Every mistake of a user: one line, exit code 2, nothing left behind."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from dlmo.cli import main


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(6):
            Image.new("RGB", (20, 20), (index * 30, 90, 60)).save(root / name / f"{index}.png")
    return root


def run(monkeypatch, capsys, tmp_path, *arguments):
    monkeypatch.setenv("DLMO_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("DLMO_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["dlmo", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    last = err.strip().splitlines()[-1]
    assert "Traceback" not in err
    return caught.value.code, last, out


CASES = {
    "missing folder": (["optimize", "{tmp}/nowhere"], "does not exist"),
    "unknown network": (["optimize", "digits", "--network", "mobilenet_v9"], "mobilenet_v"),
    "unknown service": (["optimize", "digits", "--service", "lwo"], 'did you mean "low"'),
    "nonsense size": (["optimize", "digits", "--max-size", "tiny"], "--max-size"),
    "endless size": (["optimize", "digits", "--max-size", "9" * 400], "is no size"),
    "unknown stem of all": (["optimize", "{tmp}", "--stem", "tiny"], "unknown stem"),
    "step left out": (["study", "digits", "--recipe", "resnet8 > "], 'ends with ">"'),
    "nonsense time": (["optimize", "digits", "--time", "soon"], "--time"),
    "nonsense drop": (["optimize", "digits", "--max-drop", "7"], "--max-drop"),
    "no number": (["optimize", "digits", "--min-accuracy", "high"], "min-accuracy"),
    "unknown option": (["optimize", "digits", "--fast"], "--fast"),
    "unknown command": (["optimise", "digits"], "optimise"),
    "unknown setup": (["study", "digits", "--network", "resnet8", "--setup", "FIG"], "FIQ"),
    "unknown step": (["study", "digits", "--recipe", "resnet8 > prunee"], "prune"),
    "unknown loss": (["study", "digits", "--recipe", "resnet8 > kd(loss=dkt)"], 'did you mean "dkd"'),
    "unknown teacher": (["study", "digits", "--recipe", "resnet8 > kd(resnet57)"], "resnet56"),
    "teacher is no file": (["study", "digits", "--recipe", "resnet8 > kd({tmp}/t.safetensors)"], "cannot read"),
    "pt2 teacher is no file": (["study", "digits", "--recipe", "resnet8 > kd({tmp}/t.pt2)"], "cannot read"),
    "teacher of another kind": (
        ["study", "digits", "--recipe", "resnet8 > kd(best.pt)"],
        "holds weights alone: add network=NAME",
    ),
    "kd is no kd": (["study", "digits", "--network", "resnet8", "--setup", "KD", "--kd", "prune"], "give a kd step"),
    "kd in no setup": (["study", "digits", "--network", "vgg", "--kd", "kd(resnet20)"], "no setup here has a teacher"),
    "prune in no setup": (
        ["study", "digits", "--network", "vgg", "--setup", "FIQ", "--prune", "prune(0.9)"],
        "no setup here prunes",
    ),
    "prune without setups": (
        ["study", "digits", "--recipe", "resnet8 > int8", "--prune", "prune(0.9)"],
        "no setup here prunes",
    ),
    "no input size": (["optimize", "digits", "--input-size", "0"], "input"),
    "not in the table": (["study", "paper-kd", "--network", "resnet8"], "it has mobilenet_v1"),
    "prune is no prune": (["study", "digits", "--network", "vgg", "--setup", "PRN", "--prune", "kd"], "a prune step"),
    "no such data set": (["study", "paper", "--dataset", "mnist"], "it has cifar10, cifar100"),
    "data set of no paper": (["study", "digits", "--network", "vgg", "--dataset", "cifar10"], "dlmo study paper"),
    "no number of epochs": (["study", "digits", "--network", "vgg", "--epochs", "vgg=many"], "is not a number"),
    "no end of epochs": (["study", "digits", "--network", "vgg", "--epochs", "inf"], "is not a number"),
    "one and a half epochs": (["study", "digits", "--network", "vgg", "--epochs", "1.5"], "whole number"),
    "epochs of another": (["study", "digits", "--network", "vgg", "--epochs", "resnet8=1"], "not studied here"),
    "epochs of nothing": (["study", "digits", "--network", "vgg", "--epochs", "vgg="], "is not a number"),
    "epochs twice": (["study", "digits", "--network", "vgg", "--epochs", "1", "--epochs", "2"], "which one"),
    "unknown stem": (["study", "digits", "--network", "vgg:huge"], "one of small, medium, large"),
    "nothing to study": (["study", "digits"], "--network"),
    "unknown target": (["optimize", "digits", "--target", "toaster"], "toaster"),
    "no threads": (["optimize", "digits", "--threads", "0"], "--threads"),
    "threads of no processor": (
        ["evaluate", "{file}", "digits", "--threads", "100000"],
        "--threads 100000: give 1 to 256",
    ),
    "a side with a comma": (["optimize", "digits", "--input-size", "16,64"], "HEIGHTxWIDTH, such as 32x96"),
    "out is a file": (["optimize", "digits", "--out", "{file}"], "is a file"),
    "missing model": (["evaluate", "{tmp}/m.tflite", "digits"], "cannot read"),
    "no model": (["evaluate", "{file}", "digits"], "no .tflite"),
    "bad mean": (["evaluate", "{file}", "digits", "--mean", "x"], "--mean"),
    "bad layout": (["evaluate", "{file}", "digits", "--layout", "chwn"], "--layout"),
    "nothing to inspect": (["inspect", "{file}"], "no .tflite"),
    "against without data": (["inspect", "{file}", "--against", "{file}"], "needs a data set"),
    "no package": (["predict", "{tmp}", "{file}"], "is no package"),
    "no run": (["report", "{tmp}"], "results.json"),
    "nobody's home": (["optimize", "~nobody-of-that-name/x"], "cannot be read"),
    "too long a name": (["optimize", "x" * 5000], "cannot be read"),
    "too long a package": (["predict", "x" * 5000, "{file}"], "cannot be read"),
    "model for a grid": (["study", "paper", "--model", "{file}"], "--model: the paper's grids"),
    "out holds other files": (["optimize", "digits", "--out", "{tmp}"], "holds files that are not dlmo's"),
    "damaged model": (["study", "digits", "--model", "{tmp}/damaged.tflite"], "damaged"),
    "md5": (["optimize", "cifar10:{tmp}/cifar-10-batches-py"], "md5"),
    "short time": (["optimize", "{photos}", "--time", "1ms"], "too short"),
    "out among the images": (["optimize", "{photos}", "--out", "{photos}/run"], "lies among the images"),
    "value behind an option": (
        ["study", "digits", "--recipe", "resnet8 > prune_channels(teacher=none, 0.5)"],
        '"0.5" must stand before what has a name',
    ),
    "numbers for no comparison": (["inspect", "{file}", "--mean", "imagenet"], "add --against FLOAT_MODEL SOURCE"),
    "package as another archive": (["package", "{tmp}", "--out", "{tmp}/x.tar.gz"], "only a .zip is written"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_exit_code_2_nothing_left(name, monkeypatch, capsys, tmp_path, photos):
    arguments, message = CASES[name]
    file = tmp_path / "file"
    file.write_bytes(b"not a model at all")
    cifar = tmp_path / "cifar-10-batches-py"
    cifar.mkdir()
    for batch in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        (cifar / batch).write_bytes(b"x")
    (cifar / "batches.meta").write_bytes(b"x")
    (tmp_path / "damaged.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(200))
    before = {path for path in tmp_path.rglob("*") if "store" not in path.parts}
    filled = [argument.format(tmp=tmp_path, file=file, photos=photos) for argument in arguments]
    out = ["--out", str(tmp_path / "out")] if arguments[0] == "optimize" and "--out" not in arguments else []
    code, line, printed = run(monkeypatch, capsys, tmp_path, *filled, *out)
    assert code == 2
    assert line.startswith("dlmo: ") and message in line
    assert printed == ""
    after = {path for path in tmp_path.rglob("*") if "store" not in path.relative_to(tmp_path).parts}
    assert after == before


def test_a_folder_without_images_or_with_one_class(monkeypatch, capsys, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    one = tmp_path / "one" / "cat"
    one.mkdir(parents=True)
    for index in range(5):
        Image.new("L", (8, 8), index).save(one / f"{index}.png")
    for folder in (empty, one.parent):
        code, line, _ = run(monkeypatch, capsys, tmp_path, "optimize", folder, "--out", tmp_path / "out")
        assert code == 2 and folder.name in line
        assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_out(monkeypatch, capsys, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    code, line, _ = run(monkeypatch, capsys, tmp_path, "optimize", "digits", "--out", locked / "out")
    assert code == 2 and "cannot write" in line


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write, not even root")
def test_an_out_that_nobody_can_write_is_refused_before_any_work(monkeypatch, capsys, tmp_path):
    code, line, _ = run(monkeypatch, capsys, tmp_path, "optimize", "digits", "--out", "/proc/self/out")
    assert code == 2 and "cannot write" in line
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("closed", ["0", "1", "2", "12"])
def test_closed_streams(closed):
    script = f"import os; [os.close(int(number)) for number in '{closed}']; os.execv(sys.argv[1], sys.argv[1:])"
    arguments = [sys.executable, "-m", "dlmo", "networks", "--json"]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; {script}", *arguments], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0
    assert found.stderr == "" and ("resnet20" in found.stdout) == ("1" not in closed)


def test_help_needs_neither_torch_nor_the_converter():
    probe = "import sys; sys.argv=['dlmo','--help']; import dlmo.cli\ntry: dlmo.cli.main()\nexcept SystemExit: pass\n"
    probe += "print([m for m in ('torch', 'numpy', 'litert_torch', 'ai_edge_litert', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "optimize" in done.stdout


def test_an_error_of_the_system_is_one_line(monkeypatch, capsys, tmp_path):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dlmo.strategy.optimize.run_job", full)
    code, line, _ = run(monkeypatch, capsys, tmp_path, "optimize", "digits")
    assert code == 2 and line.startswith("dlmo: No space left on device; what a job finished is kept")


def test_whoever_reads_only_the_beginning_gets_no_traceback():
    shell = f"{sys.executable} -m dlmo setups --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
