import pytest
import torch

from dlmo.training import device as module
from dlmo.training.device import Device, best_device


@pytest.mark.parametrize("multiplies, format", [(True, torch.bfloat16), (False, None)])
def test_gpus_that_only_emulate_bfloat16_train_in_float32(multiplies, format, monkeypatch):
    """torch says yes for older GPUs too unless emulation is ruled out. No GPU here: its answers are put in."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: multiplies or including_emulation
    )
    assert best_device() == Device("cuda", format)


def test_each_device_is_prepared_in_its_own_way(monkeypatch):
    kept = []
    monkeypatch.setattr(module, "_keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    module.prepare(Device("cpu", None))
    assert kept and not torch.backends.cudnn.benchmark
    module.prepare(Device("cuda", None))
    assert len(kept) == 1 and torch.backends.cudnn.benchmark


@pytest.mark.parametrize(
    "built, amx, avx, onednn, format",
    [
        (True, False, True, True, torch.bfloat16),
        (True, True, False, True, torch.bfloat16),
        (True, False, False, True, None),  # oneDNN would emulate it with AVX-512
        (False, True, True, True, None),  # as on macOS
    ],
)
def test_processors_that_only_emulate_bfloat16_train_in_float32(built, amx, avx, onednn, format, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built)
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert best_device() == Device("cpu", format)
