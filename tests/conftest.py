"""Small real material that several tests share."""

from pathlib import Path

import numpy as np
import pytest

from dlmo.data import load
from dlmo.progress import SilentProgress
from dlmo.study.store import Store
from dlmo.study.workspace import Workspace
from dlmo.training.schedule import Augmentation


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory) -> Path:
    """One store for the whole run: stages made by one test are found by the next, as users have it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def workspace(digits, shared_store) -> Workspace:
    plain = Augmentation(flip=False, shift=1, cutout=0, lighting=0.0)
    return Workspace(digits, Store(shared_store), plain, None, "auto", SilentProgress())


@pytest.fixture
def random_images():
    def make(count: int, side: int = 16, channels: int = 1) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)

    return make
