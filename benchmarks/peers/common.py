"""What the peers of benchmarks/compression.py share. Runs in the peer's own environment: numpy and nothing of dlmo.

    python PEER.py make FOLDER     build every file, run it on the test images, print sizes
    python PEER.py time FOLDER     time every file in turns, print milliseconds

FOLDER holds `network.json` (layers in order, see `Given.layers`), `weights.npz`, `calibration.npy` and `test.npy`
(uint8 N x H x W x C). `make` leaves `NAME.npy` there: the answer to each test image.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SECONDS_PER_TURN, _TURNS = 0.04, 6


class Given:
    """The network and the images.

    layers: dicts of name, kind (conv, relu, relu6, add, pool, linear), inputs (names; `image` is the network's) and,
    of a conv, stride, padding (symmetric) and groups. The weights of a layer are NAME.weight (conv: outputs x
    inputs/groups x height x width, linear: outputs x inputs) and NAME.bias.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers = json.loads((folder / "network.json").read_text())
        self.weights = dict(np.load(folder / "weights.npz"))
        self.calibration = normalized(np.load(folder / "calibration.npy"))
        self.test = normalized(np.load(folder / "test.npy"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.test.shape[1:]


def normalized(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float32) - 128) / 128


@dataclass(frozen=True)
class Loaded:
    """A file ready to run. put: an image of the network's normalized input, float32 H x W x C. scores: the last."""

    put: Callable[[np.ndarray], None]
    run: Callable[[], None]
    scores: Callable[[], np.ndarray]


def serve(make: Callable[[Given], dict[str, list[Path]]], load: Callable[[str, Given], Loaded]) -> None:
    """Answer the benchmark. make: writes the files, by tool and precision. load: opens one of them."""
    verb, folder = sys.argv[1], Path(sys.argv[2])
    given = Given(folder)
    if verb == "make":
        files = make(given)
        sizes = {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}
        for name in files:
            loaded, answers = load(name, given), []
            for image in given.test:
                loaded.put(image)
                loaded.run()
                answers.append(int(np.argmax(loaded.scores())))
            np.save(folder / f"{name}.npy", np.array(answers))
        (folder / f"{Path(sys.argv[0]).stem}.json").write_text(json.dumps(list(sizes)))
        print(json.dumps(sizes))
    else:
        names = json.loads((folder / f"{Path(sys.argv[0]).stem}.json").read_text())
        print(json.dumps(_milliseconds({name: load(name, given) for name in names}, given.test[0])))


def _milliseconds(files: dict[str, Loaded], image: np.ndarray) -> dict[str, float]:
    """Median of single runs, all files in turns; bringing the image in and the scores out is not counted."""
    times: dict[str, list[float]] = {name: [] for name in files}
    for turn in range(_TURNS + 1):
        for name, loaded in files.items():
            loaded.put(image)
            loaded.run()
            end = time.perf_counter() + _SECONDS_PER_TURN
            while True:
                start = time.perf_counter()
                loaded.run()
                now = time.perf_counter()
                if turn:  # the first turn warms up
                    times[name].append(now - start)
                if now > end:
                    break
    return {name: 1000 * float(np.median(values)) for name, values in times.items()}
