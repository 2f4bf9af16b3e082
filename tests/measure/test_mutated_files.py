"""Damaged files given to `dlmo evaluate`: each ends with one line and exit code 2, or runs; nothing else happens.

A few dozen by default; all 2,000 with `pytest -m slow tests/measure/test_mutated_files.py`.
"""

import collections
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlmo.cli import main

FILES = sorted((Path(__file__).parent / "tensorflow").glob("*.tflite"))
FEW, MANY = 36, 2000
EXTREMES = np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000], "<u4")


def flip_bits(content, generator):
    """1 to 32 bits anywhere."""
    for position in generator.integers(0, 8 * len(content), 2 ** generator.integers(0, 6)):
        content[position // 8] ^= 1 << (position % 8)
    return content


def flip_structure(content, generator):
    """1 to 8 bits in the last third, where TensorFlow writes shapes, operators and quantization."""
    start = 8 * (2 * len(content) // 3)
    for position in generator.integers(start, 8 * len(content), 2 ** generator.integers(0, 4)):
        content[position // 8] ^= 1 << (position % 8)
    return content


def write_extremes(content, generator):
    """1 to 4 aligned words become 0, the largest number and the like."""
    words = content[: len(content) // 4 * 4].view("<u4")
    words[generator.integers(2, len(words), generator.integers(1, 5))] = generator.choice(EXTREMES)
    return content


def truncate(content, generator):
    return content[: generator.integers(8, len(content))]


def swap_sections(content, generator):
    length = int(generator.integers(4, len(content) // 4))
    first, second = (int(start) for start in generator.integers(8, len(content) - length, 2))
    changed = content.copy()
    changed[first : first + length], changed[second : second + length] = (
        content[second : second + length],
        content[first : first + length],
    )
    return changed


MUTATIONS = (flip_bits, flip_structure, write_extremes, truncate, swap_sections)


def mutated(seed):
    generator = np.random.default_rng(seed)
    content = np.frombuffer(FILES[generator.integers(len(FILES))].read_bytes(), np.uint8).copy()
    return MUTATIONS[seed % len(MUTATIONS)](content, generator).tobytes()


@pytest.fixture
def photos(tmp_path, digits):
    """Two digits of each class for each split, as a folder: quicker to read than all of them."""
    for split in ("train", "val", "test"):
        for label in range(10):
            folder = tmp_path / "photos" / split / str(label)
            folder.mkdir(parents=True)
            for image in digits.train.images[digits.train.labels == label][:2]:
                Image.fromarray(image[..., 0]).save(folder / f"{len(list(folder.iterdir()))}.png")
    return tmp_path / "photos"


def outcomes(seeds, photos, tmp_path, monkeypatch, capsys):
    """How often each kind of ending came; fails on one that should not be."""
    counts, slowest = collections.Counter(), 0.0
    path = tmp_path / "mutated.tflite"
    monkeypatch.setattr(sys, "argv", ["dlmo", "evaluate", str(path), str(photos), "--json"])
    for seed in seeds:
        path.write_bytes(mutated(seed))
        started = time.perf_counter()
        with pytest.raises(SystemExit) as caught:
            main()
        slowest = max(slowest, time.perf_counter() - started)
        out, err = capsys.readouterr()
        line = err.strip().splitlines()[-1]
        assert "Traceback" not in err, seed
        assert caught.value.code in (0, 2), (seed, line)
        if caught.value.code == 0:
            assert out.startswith('{"model"') and out.count("\n") == 1, seed
            counts["ran"] += 1
        else:
            assert out == "" and line.startswith("dlmo: ") and "mutated.tflite" in line, (seed, line)
            counts[ending(line)] += 1
    return counts, slowest


def ending(line):
    for kind in ("crashed", "hangs", "memory", "is damaged", "cannot load", "no .tflite"):
        if kind in line:
            return kind
    return "refused"


def test_a_few_mutated_files(photos, tmp_path, monkeypatch, capsys):
    counts, _ = outcomes(range(FEW), photos, tmp_path, monkeypatch, capsys)
    assert counts.total() == FEW
    assert counts["ran"] and counts["cannot load"], counts  # both ends of the range are there


@pytest.mark.slow
def test_two_thousand_mutated_files(photos, tmp_path, monkeypatch, capsys):
    counts, slowest = outcomes(range(MANY), photos, tmp_path, monkeypatch, capsys)
    with capsys.disabled():
        print(f"\n{MANY} mutated files: {dict(counts.most_common())}; slowest {slowest:.1f} s")
    assert counts.total() == MANY
