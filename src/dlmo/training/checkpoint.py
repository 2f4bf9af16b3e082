"""Weights and training states as safetensors files, written atomically; no pickle."""

import json
import os
from pathlib import Path

import torch
from torch import nn


def save(path: Path, tensors: dict[str, torch.Tensor], facts: dict) -> None:
    """Write tensors and a JSON-serializable record; a killed process leaves the old file or the new one."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_suffix(".part")
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(_each_its_own(contiguous), temporary, {"dlmo": json.dumps(facts)})
    except SafetensorError as error:  # what the system refused, such as a full disk, comes as this too
        raise OSError(f"cannot write {temporary}: {error}") from None
    with open(temporary, "rb+") as file:  # else a power loss may leave an empty file under the good name
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _each_its_own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The format knows no tensors that share memory, as layers with tied weights do."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return own


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors and the record that `save` wrote."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _record(file)  # noqa: SIM118  (not iterable)


def load_record(path: Path) -> dict:
    """The record alone, without reading the tensors."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return _record(file)


def _record(file) -> dict:
    return json.loads((file.metadata() or {}).get("dlmo", "{}"))


def save_weights(path: Path, network: nn.Module, facts: dict) -> None:
    save(path, network.state_dict(), facts)


def load_weights(path: Path, network: nn.Module) -> dict:
    """Load weights into a network of the same architecture; returns the record saved with them."""
    tensors, record = load(path)
    network.load_state_dict(tensors)
    return record
