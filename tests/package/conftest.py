"""One small run on digits, made once, and packages of it."""

from pathlib import Path

import pytest
from PIL import Image

from dlmo.package.make import make_package
from dlmo.strategy.options import Options
from dlmo.strategy.study import study


@pytest.fixture(scope="session")
def small_run(tmp_path_factory, shared_store) -> Path:
    """The folder of a study of a tiny network in three precisions."""
    out = tmp_path_factory.mktemp("package") / "run"
    recipes = [f"resnet8@0.25 > {precision}" for precision in ("float32", "float16", "int8")]
    study("digits", recipe=recipes, options=Options(time=None, epochs=2, out=out, store=shared_store))
    return out


@pytest.fixture(scope="session")
def int8_package(small_run, tmp_path_factory) -> Path:
    """A package folder of the int8 file. Tests that change it take a copy."""
    out = tmp_path_factory.mktemp("package") / "int8"
    return make_package(small_run, out, artifact="resnet8@0.25-int8-seed0.tflite")


@pytest.fixture(scope="session")
def digit_files(digits, tmp_path_factory) -> list[Path]:
    """100 test images as PNG files, sorted by name."""
    folder = tmp_path_factory.mktemp("digits")
    for index in range(100):
        Image.fromarray(digits.test.images[index, ..., 0]).save(folder / f"{index:03}.png")
    return sorted(folder.iterdir())
