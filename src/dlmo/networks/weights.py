"""State dicts from anywhere: read without running what is in them, and fitted to a network."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from dlmo.errors import UserError

# Keys under which training scripts keep a state dict, and what wrappers put before its names.
_NESTING = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
_PREFIXES = ("module.", "model.", "network.", "net.", "_orig_mod.")
_SHOWN = 3

Weights = dict[str, torch.Tensor]


def read_weights(path: Path) -> Weights:
    """The tensors of a .safetensors, .pt or .pth file, by name. Raises UserError for anything but tensors."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # what is wrong is said below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a malformed file leads the reader to
        weights_alone = "save the weights alone with torch.save(network.state_dict(), ...)"
        if "TorchScript" in str(error):
            raise UserError(f"{path} is a TorchScript program; {weights_alone}") from None
        if isinstance(error, pickle.UnpicklingError):
            raise UserError(
                f"{path} holds Python objects that could run code, so dlmo does not open it; {weights_alone}"
            ) from None
        raise UserError(f"{path} is no file of weights: {(str(error).splitlines() or ['empty'])[0]}") from None
    while isinstance(content, Mapping):
        # What stands beside a state dict, such as the best accuracy, may be a tensor too.
        inner = next((content[key] for key in _NESTING if isinstance(content.get(key), Mapping)), None)
        tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if inner is None and tensors:
            return tensors
        content = inner
    raise UserError(f"{path} holds no state dict; save one with torch.save(network.state_dict(), ...)")


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no safetensors file: {error}") from None


def fit(network: nn.Module, weights: Weights, path: Path, classes: int) -> None:
    """Load weights into the network they belong to. Raises UserError that names what does not fit.

    classes: of the data, to tell weights for other classes from weights of another network.
    """
    wanted = network.state_dict()
    given = _without_prefixes(weights, set(wanted))
    # A counter that old checkpoints lack and nothing here reads.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    wrong = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    if not missing and not unexpected and wrong and all(_is_other_classes(given[n], wanted[n]) for n in wrong):
        outputs = given[wrong[0]].shape[0]
        raise UserError(f"{path} scores {outputs} classes, but the data has {classes}; give data of the same classes")
    shapes = [f"{name} ({_shape(given[name])} in the file, {_shape(wanted[name])} in the network)" for name in wrong]
    faults = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    told = [f"{word}: {', '.join(names[:_SHOWN])}{_more(names)}" for word, names in faults if names]
    if told:
        raise UserError(f"{path} does not fit the network; {'; '.join(told)}")
    network.load_state_dict(given, strict=False)


def _without_prefixes(weights: Weights, wanted: set[str]) -> Weights:
    """Names as the network has them: DataParallel and others put a word before every one."""
    while weights and not wanted & set(weights):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            return weights
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _is_other_classes(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    return given.ndim == wanted.ndim and given.ndim in (1, 2) and given.shape[1:] == wanted.shape[1:]


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _more(names: list[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
