"""What the converter makes of the networks: nothing left over, the whole graph in one delegated part."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from dlmo.networks import build


def operators(file: Path, resolver: OpResolverType) -> Counter[str]:
    interpreter = Interpreter(model_path=str(file), experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    return Counter(operator["op_name"] for operator in interpreter._get_ops_details())


@pytest.mark.parametrize(("name", "side", "pads"), [("vgg@0.25", 20, 0), ("resnet8@0.5", 32, 2)])
def test_one_delegated_part(name: str, side: int, pads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pads: stride-2 convolutions of maps with even sides."""
    monkeypatch.setenv("LITERT_TORCH_SHOW_PROGRESS", "n")
    import litert_torch

    network = litert_torch.to_channel_last_io(build(name, classes=10, input_shape=(side, side, 3)).eval(), args=[0])
    file = tmp_path / "model.tflite"
    litert_torch.convert(network.eval(), (torch.rand(1, side, side, 3),)).export(str(file))

    plain = operators(file, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    assert plain["TRANSPOSE"] == 0
    assert plain["PAD"] == pads
    assert operators(file, OpResolverType.AUTO)["DELEGATE"] == 1
