"""A small separable network, and the same with channels that no common scale fits: int8 breaks it."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from dlmo.data.dataset import Dataset
from dlmo.data.preprocessing import to_float
from dlmo.runtimes.litert.convert import convert
from dlmo.techniques.fake_quantization import fold_batch_norm

CHANNELS = 24


@pytest.fixture(scope="session")
def separable(digits: Dataset) -> nn.Module:
    """Trained on digits, BatchNorm folded."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 1),
        nn.BatchNorm2d(CHANNELS),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, 10),
    )
    images = torch.from_numpy(to_float(digits.train.images)).permute(0, 3, 1, 2)
    labels = torch.from_numpy(digits.train.labels.astype(np.int64))
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    for _ in range(20):
        for part in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[part]), labels[part]).backward()
            optimizer.step()
    return fold_batch_norm(network.eval())


@pytest.fixture(scope="session")
def balanced(separable: nn.Module, digits: Dataset) -> bytes:
    """Its float file."""
    return convert(separable, digits.input_shape)


@pytest.fixture(scope="session")
def lopsided(separable: nn.Module, digits: Dataset) -> bytes:
    """Its float file after the channels were scaled by 0.01 to 100.

    Between two layers with a ReLU, what one channel is multiplied by can be divided out again: the function stays.
    """
    network = copy.deepcopy(separable)
    first, depthwise, pointwise = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    torch.manual_seed(0)
    with torch.no_grad():
        for before, after in ((first, depthwise), (depthwise, pointwise)):
            scale = 10 ** (torch.rand(CHANNELS) * 4 - 2)
            before.weight.mul_(scale[:, None, None, None])
            before.bias.mul_(scale)
            after.weight.div_(scale[:, None, None, None] if after.groups > 1 else scale[None, :, None, None])
    return convert(network, digits.input_shape)
