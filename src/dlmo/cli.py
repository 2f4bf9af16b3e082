"""The command line. Holds no logic: reads arguments, calls the Python API, prints."""

import json
import math
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="dlmo",
    help="Labelled images and the limits of a small device in, the smallest accurate model out, with the evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Headings of --help.
_WANTED, _TRAINED, _RUNS = "What is wanted", "What is tried, and how it is trained", "Where the model runs"
_YOURS, _IMAGES, _OUTPUT = "Your own model", "Images", "Output"

Source = Annotated[
    str,
    typer.Argument(
        help="digits, cifar10[:DIR], cifar100[:DIR], or a folder or archive (.zip, .tar, .tar.gz, .tar.xz) with a "
        "folder per class, with or without train/ val/ test/ on top"
    ),
]
Model = Annotated[Path, typer.Argument(help="a .tflite file")]
Json = Annotated[
    bool, typer.Option("--json", help="one JSON document on stdout, everything else on stderr", rich_help_panel=_OUTPUT)
]
Networks = Annotated[
    list[str] | None,
    typer.Option("--network", help="network to try, may be repeated; see `dlmo networks`", rich_help_panel=_TRAINED),
]
Threads = Annotated[
    int, typer.Option(help="threads of the interpreter when latency is measured", rich_help_panel=_RUNS)
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        help="time the work may take: 90s, 10m, 2h; study by default: full schedules",
        rich_help_panel=_TRAINED,
    ),
]


def _whole(number: float | None) -> float | None:
    """5, not 5.0: keys of the store tell them apart."""
    return int(number) if number is not None and number.is_integer() else number


Epochs = Annotated[
    float | None,
    typer.Option(
        help="epochs from scratch, instead of --time; below 1: a part of the images",
        callback=_whole,
        rich_help_panel=_TRAINED,
    ),
]
InputSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE|HxW",
        help="side of the network's input in pixels, or HEIGHTxWIDTH, at most 1024; default: the images' own, 16 to 64",
        rich_help_panel=_IMAGES,
    ),
]
GroupBy = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="keep files together in one split whose names agree in this expression's ( ) group",
        rich_help_panel=_IMAGES,
    ),
]
Stem = Annotated[
    str,
    typer.Option(
        help="the networks' first layers: auto, small, medium, large; of one network: NAME:STEM in its name",
        rich_help_panel=_TRAINED,
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="folder for the model, all artifacts and the reports", rich_help_panel=_OUTPUT)
]
Seed = Annotated[
    int,
    typer.Option(
        min=0, max=2**31 - 1, help="seed of initial weights, order and augmentation", rich_help_panel=_TRAINED
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        help="where the model shall run: cpu (the default); mcu (TensorFlow Lite Micro); npu[:ACCELERATOR] (Arm "
        "Ethos-U, estimated); ssh:USER@HOST[:PORT] (a device; ?python=PATH behind it names its Python); may be "
        "repeated: limits and choice are about the first",
        rich_help_panel=_RUNS,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="make the stages on a Ray cluster: HOST:PORT, ray://HOST:PORT, auto, or local[:CORES]",
        rich_help_panel=_TRAINED,
    ),
]
Labels = Annotated[Path | None, typer.Option(help="file with one class name a line, in the order of the outputs")]
Mean = Annotated[
    str | None,
    typer.Option(
        help="pixel mean of the model's training: one number or three, for pixels from 0 to 1 or 0 to 255; or half, "
        "unit, pixels, imagenet, cifar",
        rich_help_panel=_YOURS,
    ),
]
Std = Annotated[str | None, typer.Option(help="pixel standard deviation, like --mean", rich_help_panel=_YOURS)]
Scale = Annotated[float | None, typer.Option(help="what pixels (0 to 255) are divided by before --mean and --std")]
Layout = Annotated[str, typer.Option(help="order of the input's sides: auto, nhwc, nchw")]
OpenSize = Annotated[
    int | None, typer.Option("--input-size", help="side of the input in pixels, for a file that leaves it open")
]
ChannelOrder = Annotated[str, typer.Option(help="order of the input's channels: rgb, bgr")]

OwnChannelOrder = Annotated[
    str | None,
    typer.Option(
        "--channel-order", help="order of your model's channels: rgb, bgr; default: found out", rich_help_panel=_YOURS
    ),
]
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="your own: file.py:FUNCTION, weights (.safetensors, .pt, .pth) with --network, .pt2, or float .tflite",
        rich_help_panel=_YOURS,
    ),
]
# What shells call a command that Ctrl-C ended; typer turns a KeyboardInterrupt into it.
_INTERRUPTED = 130
# Everything was written, but some recipes failed.
_SOME_FAILED = 4

Track = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TRACKER",
        help="log the work to mlflow[:URI] (default: mlflow.db here) or its curves to tensorboard:DIR; may be repeated",
        rich_help_panel=_OUTPUT,
    ),
]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False) -> None:
    if version:
        from dlmo import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def optimize(
    source: Source,
    service: Annotated[
        str,
        typer.Option(
            help="low: smallest file, mid: balance at 30 images a second, high: accuracy; low and mid lose at most 1 "
            "point; limits given take the place of its own",
            rich_help_panel=_WANTED,
        ),
    ] = "mid",
    max_size: Annotated[
        str | None, typer.Option(help="largest file (mcu and npu: flash): 100KB, 96KiB, 1.5MB", rich_help_panel=_WANTED)
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option(help="longest time for one image, on the target: 2ms", rich_help_panel=_WANTED)
    ] = None,
    max_ram: Annotated[
        str | None,
        typer.Option(
            help="most memory, 64KB, 20MB; mcu: tensor arena; npu: SRAM, estimated; else: what a process grows by",
            rich_help_panel=_WANTED,
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(help="least validation accuracy, 0 to 1", rich_help_panel=_WANTED)
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="most accuracy lost against the best network without optimization, 0 to 1", rich_help_panel=_WANTED
        ),
    ] = None,
    target: Targets = None,
    threads: Threads = 1,
    network: Networks = None,
    model: OwnModel = None,
    mean: Mean = None,
    std: Std = None,
    channel_order: OwnChannelOrder = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            help="time to use up, searching after the setups: 5m, 2h; default: the setups alone, in 10m",
            rich_help_panel=_TRAINED,
        ),
    ] = None,
    epochs: Epochs = None,
    input_size: InputSize = None,
    group_by: GroupBy = None,
    stem: Stem = "auto",
    seed: Seed = 0,
    track: Track = None,
    cluster: Cluster = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train, compress, convert and measure; choose the model for a service, `mid` unless named, and your limits."""
    from dlmo.errors import BudgetError
    from dlmo.strategy.optimize import optimize as work
    from dlmo.strategy.options import Options

    options = Options(
        time=time, epochs=epochs, threads=threads, seeds=(seed,), input_size=input_size, group_by=group_by,
        stem=stem, **_targets(target), out=out, track=tuple(track or ()), cluster=cluster,
    )  # fmt: skip
    code = 0
    try:
        with redirect_stdout(sys.stderr):  # code of the user's may print; stdout is the result's
            run = work(
                source, service=service, max_size=max_size, max_latency=max_latency, max_ram=max_ram,
                min_accuracy=min_accuracy, max_drop=max_drop, network=network or (), model=model, mean=mean,
                std=std, channel_order=channel_order, options=options, progress=_progress(),
            )  # fmt: skip
        code = _SOME_FAILED if run.failures else 0
    except BudgetError as error:
        run, code = error.run, 3
    _print_run(run, out, as_json)
    if code:
        raise typer.Exit(code)


@app.command()
def study(
    source: Annotated[
        str,
        typer.Argument(
            help='as for optimize; or "paper": the reference study\'s grid on CIFAR-10 and CIFAR-100; or "paper-kd": '
            "its table of distillation, on CIFAR-10"
        ),
    ],
    network: Networks = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            help="setup to measure on every network, may be repeated; default all; see `dlmo setups`",
            rich_help_panel=_TRAINED,
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help='a recipe, alone or beside setups: "resnet20 > prune(0.9) > int8"', rich_help_panel=_TRAINED),
    ] = None,
    model: OwnModel = None,
    mean: Mean = None,
    std: Std = None,
    channel_order: OwnChannelOrder = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=100, help="how many seeds to train each recipe with", rich_help_panel=_TRAINED)
    ] = 1,
    target: Targets = None,
    threads: Threads = 1,
    time: Time = None,
    epochs: Annotated[
        list[str] | None,
        typer.Option(
            help="epochs from scratch, instead of --time; NETWORK=EPOCHS for one of them or a teacher; may be repeated",
            rich_help_panel=_TRAINED,
        ),
    ] = None,
    input_size: InputSize = None,
    group_by: GroupBy = None,
    stem: Stem = "auto",
    data: Annotated[
        Path | None, typer.Option(help="for paper, paper-kd: folder with the official files", rich_help_panel=_IMAGES)
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="for paper: cifar10 or cifar100 alone; default both", rich_help_panel=_IMAGES),
    ] = None,
    kd: Annotated[
        str,
        typer.Option(
            help='what KD stands for in setups, such as "kd(wide_resnet_40_2, loss=dkd)"', rich_help_panel=_TRAINED
        ),
    ] = "kd",
    prune: Annotated[
        str, typer.Option(help='what PRN and PRQ prune by in setups, such as "prune(0.9)"', rich_help_panel=_TRAINED)
    ] = "prune",
    train_only: Annotated[
        bool,
        typer.Option(
            "--train-only",
            help="stop when all is trained; needs no runtime, see docs/training-elsewhere.md",
            rich_help_panel=_TRAINED,
        ),
    ] = False,
    track: Track = None,
    cluster: Cluster = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Measure setups and recipes on networks, side by side."""
    from dlmo.errors import UserError
    from dlmo.strategy.options import Options
    from dlmo.strategy.study import epochs_by_network, train_study
    from dlmo.strategy.study import study as work

    every_epochs, epochs_of = epochs_by_network(epochs or ())
    options = Options(
        time=time, epochs=every_epochs, epochs_of=epochs_of, threads=threads, seeds=tuple(range(seeds)),
        input_size=input_size, group_by=group_by, stem=stem, **_targets(target), out=out,
        track=tuple(track or ()), cluster=cluster,
    )  # fmt: skip
    if source in ("paper", "paper-kd"):
        given = {"--recipe": recipe, "--model": model, "--mean": mean, "--std": std, "--channel-order": channel_order}
        unwanted = next((name for name, value in given.items() if value), None)
        if unwanted:
            raise UserError(
                f"{unwanted}: the paper's grids have its networks and setups only; leave it out, or name a data set"
            )
        from dlmo.strategy.paper import Asked, study_paper, train_paper

        asked = Asked(data, source, network or (), setup or (), dataset or (), kd, prune, options)
        if train_only:
            trained = train_paper(asked, _progress())
            _print_trained(trained, as_json)
            _exit_if_some_failed(trained)
            return
        found = study_paper(asked, _progress())
        _print_paper(found, out, as_json)
        _exit_if_some_failed(*found.runs.values())
        return
    if data is not None or dataset:
        option = "--data" if data is not None else "--dataset"
        raise UserError(f"{option} belongs to `dlmo study paper`; write the place into the source, as in cifar10:DIR")
    with redirect_stdout(sys.stderr):
        found = (train_study if train_only else work)(
            source, network=network or (), setup=setup or (), recipe=recipe or (), model=model, mean=mean, std=std,
            channel_order=channel_order, kd=kd, prune=prune, options=options, progress=_progress(),
        )  # fmt: skip
    if train_only:
        _print_trained(found, as_json)
    else:
        _print_run(found, out, as_json)
    _exit_if_some_failed(found)


@app.command()
def compress(
    model: Annotated[
        str,
        typer.Argument(
            help="file.py:FUNCTION, weights (.safetensors, .pt, .pth) with --network, .pt2, or float .tflite"
        ),
    ],
    source: Source,
    recipe: Annotated[
        str,
        typer.Option(
            help='steps, such as "prune_channels(0.5) > qat > int8"; see `dlmo setups`', rich_help_panel=_TRAINED
        ),
    ],
    network: Annotated[
        str | None, typer.Option(help="what the weights are for: a name (see `dlmo networks`) or file.py:FUNCTION")
    ] = None,
    mean: Mean = None,
    std: Std = None,
    channel_order: OwnChannelOrder = None,
    target: Targets = None,
    threads: Threads = 1,
    time: Annotated[
        str | None, typer.Option(help="what it may take, such as 30m; default: 10m", rich_help_panel=_TRAINED)
    ] = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="epochs of each training step, instead of --time", callback=_whole, rich_help_panel=_TRAINED),
    ] = None,
    input_size: InputSize = None,
    group_by: GroupBy = None,
    stem: Stem = "auto",
    seed: Seed = 0,
    track: Track = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Put a model that is trained already through a recipe, and measure what that brings."""
    from dlmo.strategy.compress import compress as work
    from dlmo.strategy.options import Options

    options = Options(
        time=time, epochs=epochs, threads=threads, seeds=(seed,), input_size=input_size, group_by=group_by,
        stem=stem, **_targets(target), out=out, track=tuple(track or ()),
    )  # fmt: skip
    with redirect_stdout(sys.stderr):
        run = work(
            model, source, recipe=recipe, network=network, mean=mean, std=std, channel_order=channel_order,
            options=options, progress=_progress(),
        )  # fmt: skip
    _print_run(run, out, as_json)
    _exit_if_some_failed(run)


@app.command()
def evaluate(
    model: Model,
    source: Source,
    split: Annotated[str, typer.Option(help="train, validation, test or all")] = "test",
    threads: Threads = 1,
    group_by: GroupBy = None,
    labels: Labels = None,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    layout: Layout = "auto",
    channel_order: ChannelOrder = "rgb",
    input_size: OpenSize = None,
    as_json: Json = False,
) -> None:
    """Accuracy, size, latency and memory of a .tflite file, also of one dlmo did not make."""
    from dlmo.measure.evaluate import evaluate as work
    from dlmo.measure.feeding import FeedOptions

    feed = FeedOptions(mean, std, scale, layout, channel_order, input_size, labels)
    evaluation = work(model, source, split=split, threads=threads, group_by=group_by, feed=feed, progress=_progress())
    if as_json:
        _print_json(evaluation.to_json())
        return
    from dlmo.report.terminal import print_evaluation

    print_evaluation(evaluation, _console())


@app.command()
def package(
    run: Annotated[
        Path,
        typer.Argument(help="folder that `dlmo optimize`, `study` or `compress` wrote; of `study paper` one inside it"),
    ],
    out: Annotated[Path, typer.Option(help="folder to make, or a file that ends in .zip")],
    artifact: Annotated[
        str | None, typer.Option(help="name of a file in the run's artifacts/, for another than the chosen one")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what is needed to ship a model: with runner, C array, golden images and self-test."""
    from dlmo.package.make import make_package as work

    notes: list[str] = []
    written = work(run, out, artifact, notes.append)
    if as_json:
        _print_json({"package": str(written), "notes": notes})
    else:
        print(written)
        for note in notes:
            print(note, file=sys.stderr)


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(help="a package: a folder or a .zip")], as_json: Json = False
) -> None:
    """Check a package's files and run its golden images on this machine; exit code 1 if the answers differ."""
    from dlmo.package.run import describe
    from dlmo.package.verify import verify as work

    found = work(package)
    if as_json:
        _print_json(found.to_json())
    else:
        print(f"{found.package}: {found.files} files as in the manifest; {describe(found.replay)}")
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def inspect(
    model: Model,
    source: Annotated[str | None, typer.Argument(help="the data to compare on, with --against; see optimize")] = None,
    against: Annotated[Path | None, typer.Option(help="the float .tflite file of the same network")] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="measure what each operator takes on this machine")
    ] = False,
    threads: Threads = 1,
    mean: Mean = None,
    std: Std = None,
    scale: Scale = None,
    layout: Layout = "auto",
    channel_order: ChannelOrder = "rgb",
    input_size: OpenSize = None,
    group_by: GroupBy = None,
    as_json: Json = False,
) -> None:
    """Operators of a .tflite file one by one: their latency, and against its float file which lose the accuracy."""
    from dlmo.measure.feeding import FeedOptions
    from dlmo.measure.layers import inspect as work

    feed = FeedOptions(mean, std, scale, layout, channel_order, input_size)
    inspection = work(
        model,
        against=against,
        source=source,
        latency=latency,
        threads=threads,
        feed=feed,
        group_by=group_by,
        progress=_progress(),
    )
    if as_json:
        _print_json(inspection.to_json())
        return
    from dlmo.report.layers import print_inspection

    print_inspection(inspection, _console())


@app.command()
def predict(
    package: Annotated[Path, typer.Argument(help="a package: a folder or a .zip, also a run's folder")],
    images: Annotated[list[Path], typer.Argument(help="image files, and folders of them")],
    top: Annotated[int, typer.Option(min=1, help="how many classes to print")] = 3,
    as_json: Json = False,
) -> None:
    """Classify images with a package. Files that cannot be read are named on stderr and left out; exit code 2 if
    none could be read."""
    from dlmo.package.predict import Prediction, predictions

    answers = []
    read = 0
    for answer in predictions(package, images, top):
        good = isinstance(answer, Prediction)
        read += good
        if not good:
            print(f"dlmo: left out {answer.image}: {answer.reason}", file=sys.stderr)
        if as_json:
            answers.append(answer.to_json())
        elif good:
            best = ", ".join(f"{name} {share:.1%}" for name, share in zip(answer.classes, answer.shares))
            print(f"{answer.image}: {best}")
    if as_json:
        _print_json(answers)
    if not read:
        from dlmo.errors import UserError

        raise UserError("no image could be read; give image files or folders of them")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="a folder that `dlmo optimize`, `study` or `compress` wrote")],
    as_json: Json = False,
) -> None:
    """Print a run's results again, and where its page lies."""
    from dlmo.errors import UserError

    try:
        document = json.loads((run / "results.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"{run} holds no results.json; name a folder that a job wrote with --out") from None
    from dlmo.report.document import findings_of, run_of
    from dlmo.report.terminal import print_findings, print_run

    compared = isinstance(document, dict) and isinstance(document.get("runs"), dict)  # `dlmo study paper`
    runs = [run_of(entry) for entry in (document["runs"].values() if compared else [document])]
    if as_json:
        _print_json(document)
        return
    for found in runs:
        print_run(found, _console())
    if compared:
        print_findings(findings_of(document), _console())
    print(f"\npage: {run / 'report.html'}")


devices = typer.Typer(help="Devices that are reached over ssh.", no_args_is_help=True)
app.add_typer(devices, name="devices")


@devices.command()
def check(
    target: Annotated[str, typer.Argument(metavar="ssh:USER@HOST[:PORT][?python=PATH]", help="the device")],
    as_json: Json = False,
) -> None:
    """Tell what a device has and what it lacks to be measured on, with the install command; exit code 2 if anything."""
    from dlmo.errors import UserError
    from dlmo.measure.device.readiness import check_device

    found = check_device(target)
    if as_json:
        _print_json(found.to_json())
    else:
        from dlmo.report.terminal import print_readiness

        print_readiness(found, _console())
    if not found.usable:
        raise UserError(found.advice())


@app.command()
def networks(as_json: Json = False) -> None:
    """List the networks."""
    from dataclasses import asdict

    from dlmo import networks

    if as_json:
        _print_json([asdict(info) for info in networks.names()])
        return
    print(f"{'':19}{'parameters':>11}{'MACs':>8}  (32x32 RGB, 10 classes; int8 takes a byte a parameter)")
    for info in networks.names():
        print(f"{info.name:19}{info.parameters:11,}{info.macs / 1e6:7,.0f}M  {info.description} ({info.paper})")
    print("Any name takes a width, mobilenet_v2@0.5, and a stem for another resolution, mobilenet_v2@0.5:medium.")


@app.command()
def setups(as_json: Json = False) -> None:
    """List the study's setups and the steps recipes are made of."""
    from dlmo.study.recipe import SETUPS, STEPS

    if as_json:
        steps = {
            name: {"code": step.code, "summary": step.summary, "options": step.model_json_schema()}
            for name, step in STEPS.items()
        }
        _print_json({"setups": SETUPS, "steps": steps})
        return
    for code, steps in SETUPS.items():
        print(f"{code:9}{steps}")
    print(
        "\nsteps of a recipe, written NETWORK > STEP(VALUE, OPTION=VALUE) > ... > PRECISION, and what tables call them:"
    )
    for name, step in STEPS.items():
        defaults = {field: entry.default for field, entry in step.model_fields.items()}
        options = ", ".join(field if value is None else f"{field}={value}" for field, value in defaults.items())
        print(f"{name:16}{step.code:5}{step.summary}" + (f" ({options})" if options else ""))


def _open_closed_streams() -> None:
    """Services may start a program without standard streams; the next file that it opens would get their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115  (for good)


def main() -> None:
    """Run the command line; turns the errors of users into one line and an exit code."""
    from dlmo.errors import UserError

    _open_closed_streams()
    sys.stdout.reconfigure(errors="backslashreplace")  # paths may be no text
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()  # here, where a full disk or a closed pipe is still told in a line
    except UserError as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError as error:
        _fail(f"not enough memory ({error or 'none is left'}); give a smaller --input-size or fewer images", 2)
    except OSError as error:  # a full disk, a folder that may not be read
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}; what a job finished is kept, run the same command again", 2)
    except RuntimeError as error:
        if "home directory" not in str(error):  # pathlib's, of ~nobody/photos
            raise
        _fail(f"{error}: a path begins with ~ and the name of nobody here", 2)
    except Exception as error:
        # Wrong options are the user's; anything else is ours and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), 2)
    if code == _INTERRUPTED:
        _fail("stopped; a job goes on where it stopped if the same command is run again", code)
    sys.exit(code)


def _fail(message: str, code: int) -> None:
    if message:  # without arguments, the help was printed already
        print(f"dlmo: {' '.join(message.split())}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # a second failure, when Python ends, would take the exit code
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _progress():
    from dlmo.report.progress import TerminalProgress

    return TerminalProgress()


def _console():
    from rich.console import Console

    return Console()


def _targets(names: list[str] | None) -> dict:
    first, *more = names or ["cpu"]
    return {"target": first, "more_targets": tuple(more)}


def _print_run(run, out: Path | None, as_json: bool) -> None:
    if as_json:
        _print_json(run.to_json())
        return
    from dlmo.report.terminal import print_run

    print_run(run, _console())
    if not run.results:
        print("\nno model was made")
        if out is not None and not (out / "model.tflite").exists():
            print(f"report: {out / 'report.html'}")
    elif out is None:
        again = "the same command with --out FOLDER writes model and report, and trains nothing anew"
        print(f"\nno file was written; {again}")
    else:
        from dlmo.report.wording import described

        which = "" if run.choice else f" ({described(run).recipe}, the best on validation images; none was chosen)"
        print(f"\nmodel: {out / 'model.tflite'}{which}\nreport: {out / 'report.html'}")


def _exit_if_some_failed(*runs) -> None:
    if any(run.failures for run in runs):
        raise typer.Exit(_SOME_FAILED)


def _print_paper(found, out: Path | None, as_json: bool) -> None:
    if as_json:
        _print_json(found.to_json())
        return
    from dlmo.report.terminal import print_findings, print_run

    for run in found.runs.values():
        print_run(run, _console())
    print_findings(found.findings, _console())
    if out is not None:
        print(f"\ncomparison: {out / 'study.md'}\npage: {out / 'report.html'}")


def _print_trained(found, as_json: bool) -> None:
    if as_json:
        _print_json(found.to_json())
        return
    from dlmo.report.terminal import print_trained

    print_trained(found, _console())


def _print_json(document: object) -> None:
    print(json.dumps(_without_nan(document), allow_nan=False))


def _without_nan(value: object) -> object:
    """The same with null for what is no number: JSON knows neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
