"""Networks that dlmo did not make: the user's own code and weights, a .pt2 file, or a float .tflite file.

Code runs only when the user names it (`file.py:function`); weights are read without running anything in them.
"""

import hashlib
import importlib.util
import inspect
import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dlmo.errors import UserError
from dlmo.networks import registry

if TYPE_CHECKING:
    from torch import nn

# In recipes an own network stands under this and its file's or function's name.
PREFIX = "own:"
# Arguments of a user's function that receive the number of classes.
_CLASSES_ARGUMENTS = ("classes", "num_classes")
_SOME_CLASSES = 10  # where a network is only to be looked at
_WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class Source:
    """A model as the user named it, opened: its weights are read, its function is found, nothing is built yet.

    name: what recipes call it. make: from number of classes, input shape (height, width, channels) and stem to the
    network with its weights, in evaluation mode; it takes N x C x H x W in the user's own normalization. None for a
    .tflite file. identity: what the result depends on beside the weights. channels, input_size (height, width): of
    the images, where they are known. exported: it is a .pt2 file's graph. batch: the only batch size it takes, None
    for any. has_stem: it is a network of this package, whose stem can be told.
    """

    name: str
    make: "Callable[[int, tuple[int, int, int], str], nn.Module] | None"
    identity: str
    channels: int | None = None
    input_size: tuple[int, int] | None = None
    tflite: bytes | None = None
    exported: bool = False
    batch: int | None = None
    has_stem: bool = False


@dataclass(frozen=True)
class OwnNetwork:
    """A user's network, ready to be the network of recipes.

    module: takes dlmo's pixels, (pixel - 128) / 128, N x C x H x W; None for a .tflite file. fingerprint: hex digest
    of weights, code and normalization. post_training_only: why it cannot be trained further; None if it can.
    notes: what was found when it was taken in.
    """

    name: str
    module: "nn.Module | None"
    fingerprint: str
    tflite: bytes | None = None
    post_training_only: str | None = None
    notes: tuple[str, ...] = ()


def is_own(name: str) -> bool:
    """Whether a network's name in a recipe stands for the user's own."""
    return re.fullmatch(rf"{PREFIX}[\w.-]+", name) is not None


def open_model(model: str, network: str | None) -> Source:
    """Read what `--model` and `--network` name. Raises UserError for everything that can be refused without data."""
    path, _, function = model.partition(".py:")
    if function:
        if network is not None:
            raise UserError(f"{model} is a network already; --network goes with a file of weights")
        return _open_function(Path(f"{path}.py"), function)
    path = Path(model).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".py":
        raise UserError(f"{model}: name the function that makes the network, {model}:FUNCTION")
    if suffix == ".onnx":
        raise UserError(
            f"{model}: dlmo reads no ONNX; give the torch code as file.py:FUNCTION with its weights, turn the "
            "file into a torch module (package onnx2torch) inside such a function, or into a float .tflite"
        )
    if suffix in (".pt2", *_WEIGHTS_SUFFIXES) and not path.exists():
        raise UserError(f"there is no file {path}")
    if suffix == ".pt2":
        return _open_exported(path, network)
    if suffix not in _WEIGHTS_SUFFIXES:
        raise UserError(
            f"{model}: give file.py:FUNCTION, weights ({', '.join(_WEIGHTS_SUFFIXES)}) with --network, "
            ".pt2, or a float .tflite"
        )
    return _open_weights(path, network)


def _open_function(path: Path, function: str) -> Source:
    build = _user_function(path, function)

    def make(classes: int, _shape: tuple[int, int, int], _stem: str) -> "nn.Module":
        return _call(build, classes)

    return Source(own_name(function), make, _read(path).decode(errors="replace") + function, _colours(build))


def _open_exported(path: Path, network: str | None) -> Source:
    from dlmo.networks.exported import read_exported

    if network is not None:
        raise UserError(f"{path} is a whole network; --network goes with a file of weights")
    found = read_exported(path)
    return Source(
        own_name(path.stem), lambda *_: found.graph, "exported", found.channels, found.size, exported=True,
        batch=found.batch,
    )  # fmt: skip


def _open_weights(path: Path, network: str | None) -> Source:
    from dlmo.networks import build
    from dlmo.networks.weights import fit, read_weights

    if network is None:
        raise UserError(
            f"{path} holds weights alone; add --network with a name (see `dlmo networks`) or file.py:FUNCTION"
        )
    file, _, function = network.partition(".py:")
    if function:
        source = _open_function(Path(f"{file}.py"), function)
        identity, make_network = source.identity, source.make
    else:
        identity = registry.canonical(network)

        def make_network(classes: int, shape: tuple[int, int, int], stem: str) -> "nn.Module":
            return build(identity, classes=classes, input_shape=shape, stem=stem)

    weights = read_weights(path)

    def make(classes: int, shape: tuple[int, int, int], stem: str) -> "nn.Module":
        built = make_network(classes, shape, stem)
        fit(built, weights, path, classes)
        return built.eval()

    # Weights stand in any order: a file sorted by name may begin with a depthwise convolution.
    stems = {int(tensor.shape[1]) for tensor in weights.values() if tensor.ndim == 4} & {1, 3}
    channels = source.channels if function else max(stems, default=None)
    return Source(own_name(path.stem), make, identity, channels, has_stem=not function)


def _user_function(path: Path, name: str) -> Callable:
    """Run the file the user named and take the function out of it."""
    path = path.expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"dlmo_own_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    folder = str(path.resolve().parent)
    if folder not in sys.path:  # what the file imports from beside itself, now and when the function is called
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may end itself
        raise UserError(f"{path} does not run: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if hasattr(found, "forward"):
        raise UserError(f"{path}: {name} is a network, not a function; write one that returns it and name that")
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        raise UserError(f"{path} has no function {name}; it has {', '.join(known) or 'none'}")
    return found


def _colours(build: Callable) -> int | None:
    """Colours of the images that a user's function makes a network for; None where it does not tell."""
    parameter = _classes_parameter(build)
    if parameter is None or parameter.default is not parameter.empty:
        return _channels(_call(build, None))
    try:
        return _channels(_call(build, _SOME_CLASSES))
    except UserError:  # its weights may be made for another number of classes: the call with theirs will tell
        return None


def _classes_parameter(build: Callable) -> inspect.Parameter | None:
    """The parameter of a user's function that takes the number of classes; None where it has none."""
    try:
        accepted = inspect.signature(build).parameters
    except (ValueError, TypeError):  # of built-in ones
        return None
    return next((accepted[name] for name in _CLASSES_ARGUMENTS if name in accepted), None)


def _call(build: Callable, classes: int | None) -> "nn.Module":
    """Call a user's function, with the number of classes if it wants one and this is not None; initial weights are the
    same each time."""
    import torch

    parameter, called = _classes_parameter(build), getattr(build, "__name__", str(build))
    torch.manual_seed(0)
    try:
        network = build() if parameter is None or classes is None else build(**{parameter.name: classes})
    except (Exception, SystemExit) as error:  # as of a parser of command lines
        raise UserError(f"{called}() does not make a network: {type(error).__name__}: {error}") from error
    if not isinstance(network, torch.nn.Module):
        raise UserError(f"{called}() returns a {type(network).__name__}, not a torch.nn.Module")
    return network.eval().requires_grad_().to(torch.float32)


def _channels(network: "nn.Module") -> int | None:
    """Colours of the images, from the first convolution."""
    from torch import nn

    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return first.in_channels if first is not None and first.in_channels in (1, 3) else None


def fingerprint(network: "nn.Module", identity: str) -> str:
    """Hex digest of a network's weights, its layers and their settings, the code between them, and `identity`."""
    import torch

    code = [part.code for part in network.modules() if isinstance(part, torch.fx.GraphModule)]
    # Not all settings are in what layers print of themselves: `align_corners` of nn.Upsample is not.
    settings = [
        f"{name} {key} {value!r}"
        for name, part in network.named_modules()
        if not isinstance(part, torch.fx.GraphModule)
        for key, value in sorted(vars(part).items())
        if key != "training" and _plain(value)
    ]
    digest = hashlib.blake2b("\n".join([identity, repr(network), *code, *settings]).encode(), digest_size=16)
    for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain(value: object) -> bool:
    """Whether a value's text tells all of it, in every process."""
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def own_name(text: str) -> str:
    """What recipes call the user's network in this file or function."""
    return PREFIX + (re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("_") or "network")
