"""Networks in .pt2 files: what they compute, and what is never run."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from dlmo import networks
from dlmo.errors import UserError
from dlmo.networks.exported import read_exported


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return networks.build("resnet8@0.25", classes=4, input_shape=(16, 16, 3)).eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 16, 16),)), path)
    return path


def changed(file: Path, out: Path, ending: str, change) -> Path:
    """A copy in which one member is another."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, change(content) if name.endswith(ending) else content)
    return out


def test_one_image_at_a_time(network, file):
    found = read_exported(file)
    assert (found.batch, found.channels, found.size) == (1, 3, (16, 16))
    x = torch.randn(1, 3, 16, 16)
    assert torch.allclose(found.graph(x), network(x), atol=1e-5)


def test_any_number_of_images(network, tmp_path):
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(network, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=sizes)
    torch.export.save(program, tmp_path / "net.pt2")
    found = read_exported(tmp_path / "net.pt2")
    x = torch.randn(5, 3, 16, 16)
    assert found.batch is None and torch.allclose(found.graph(x), network(x), atol=1e-5)


def test_a_fixed_batch_of_several_is_refused(network, tmp_path):
    torch.export.save(torch.export.export(network, (torch.zeros(3, 3, 16, 16),)), tmp_path / "net.pt2")
    with pytest.raises(UserError, match="batches of 3"):
        read_exported(tmp_path / "net.pt2")


def test_a_pickle_in_the_sample_inputs_does_not_run(file, tmp_path):
    buffer = io.BytesIO()
    torch.save(Evil(tmp_path / "ran"), buffer)
    evil = changed(file, tmp_path / "evil.pt2", "sample_inputs/model.pt", lambda _: buffer.getvalue())
    with pytest.raises(UserError, match="could run code"):
        read_exported(evil)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))
    assert (tmp_path / "ran").exists(), "it would have"


def test_pickled_weights_are_refused_by_their_description(file, tmp_path):
    def pickled(content: bytes) -> bytes:
        document = json.loads(content)
        next(iter(document["config"].values()))["use_pickle"] = True
        return json.dumps(document).encode()

    with pytest.raises(UserError, match="pickled objects"):
        read_exported(changed(file, tmp_path / "evil.pt2", "weights_config.json", pickled))


def test_another_function_than_an_operator_is_refused(file, tmp_path):
    def calling_the_shell(content: bytes) -> bytes:
        text = content.decode()
        assert '"torch.ops.aten.conv2d.default"' in text
        return text.replace("torch.ops.aten.conv2d.default", "torch.os.system", 1).encode()

    with pytest.raises(UserError, match="only ATen operators"):
        read_exported(changed(file, tmp_path / "evil.pt2", "model.json", calling_the_shell))


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x05\x06" + bytes(18)])
def test_junk_is_refused(tmp_path, content):
    (tmp_path / "junk.pt2").write_bytes(content)
    with pytest.raises(UserError, match="no .pt2 file"):
        read_exported(tmp_path / "junk.pt2")


def test_a_network_that_was_exported_while_training_is_refused(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten()).train()
    torch.export.save(torch.export.export(network, (torch.zeros(1, 3, 16, 16),)), tmp_path / "net.pt2")
    with pytest.raises(UserError, match=r"exported while training; call .eval\(\)"):
        read_exported(tmp_path / "net.pt2")
