"""TensorBoard: training curves as scalars, one folder per job and in it one per training.

Written by the tensorboard package itself, which needs neither TensorFlow nor torch for that.
"""

import importlib.util
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from dlmo.errors import UserError, missing_extra
from dlmo.study.results import Failure, Run
from dlmo.study.run import Outcome, safe_name
from dlmo.tracking.work import Training, Work, values_of
from dlmo.training.curve import Epoch


class TensorBoard:
    def __init__(self, rest: str) -> None:
        self._root = Path(rest).expanduser()
        self._named = bool(rest)
        self._folder = self._root
        self._writers = {}  # of the trainings that are under way, by training
        self._names: dict[str, str] = {}  # key of the training that has each name
        self.place = f"TensorBoard in {self._root}; to look: tensorboard --logdir {shlex.quote(str(self._root))}"

    def check(self) -> None:
        if not self._named:
            raise UserError("--track tensorboard: name a folder, as in tensorboard:runs/curves")
        if importlib.util.find_spec("tensorboard") is None:
            raise missing_extra("--track tensorboard needs TensorBoard", "tensorboard")
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._root).close()
        except OSError as error:
            raise UserError(f"--track tensorboard:{self._root}: {error.strerror}; name another folder") from None

    def begin(self, work: Work) -> None:
        # A job that is repeated logs its curves again; beside the others, not over them.
        self._folder = self._root / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{safe_name(work.dataset)}"

    def curve(self, training: Training, epochs: Sequence[Epoch], whole: bool) -> None:
        from tensorboard.summary import Writer

        if epochs:
            if training not in self._writers:
                name = f"{safe_name(training.name)}-seed{training.seed}"
                if self._names.setdefault(name, training.key) != training.key:
                    name += f"-{training.key[:8]}"  # the same steps for another precision
                self._writers[training] = Writer(str(self._folder / name))
            writer = self._writers[training]
            for epoch in epochs:
                for name, value in values_of(epoch).items():
                    writer.add_scalar(name, value, training.before + epoch.epoch)
            writer.flush()
        if whole and training in self._writers:
            self._writers.pop(training).close()

    def results(self, run: Run, outcomes: Sequence[Outcome]) -> None:
        """Curves are all that goes to TensorBoard."""

    def close(self, status: str, failures: Sequence[Failure] = ()) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
