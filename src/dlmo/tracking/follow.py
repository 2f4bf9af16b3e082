"""Telling trackers about a job while it runs.

Curves are read from the store, where every training leaves them (a running one in its checkpoint): so those of stages
that were finished earlier, or in another process, are told like all others.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dlmo.errors import one_line
from dlmo.progress import Progress
from dlmo.study.store import Store
from dlmo.study.trainings import curve_so_far
from dlmo.tracking import FAILED, FINISHED, KILLED, Tracker
from dlmo.tracking.work import Work

if TYPE_CHECKING:
    from dlmo.study.results import Failure, Run
    from dlmo.study.run import Outcome

_SECONDS_BETWEEN_LOOKS = 5.0


class Tracked:
    """A job and those who are told about it. A tracker that fails is left out from then on; the job goes on."""

    def __init__(self, trackers: Sequence[Tracker], work: Work, store: Store, progress: Progress) -> None:
        self._trackers = list(trackers)
        self._work = work
        self._store = store
        self._progress = progress
        self._noted: set[str] = set()
        self._open = {training: 0 for training in work.trainings()}  # epochs told of each that is not whole yet

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Around the trainings: begins the log, keeps the curves up to date, and closes the log if the job fails."""
        if not self._trackers:
            yield
            return
        for tracker in self._trackers:
            self._progress.note(f"tracking: {tracker.place}")
        self._tell("begin", self._work)
        stop = threading.Event()
        watch = threading.Thread(target=self._look_until, args=(stop,), daemon=True)
        watch.start()
        status = FINISHED
        try:
            yield
        except Exception:
            status = FAILED
            raise
        except BaseException:
            status = KILLED
            raise
        finally:
            stop.set()
            watch.join()
            self._look()
            if status != FINISHED:
                self._tell("close", status)

    def finish(
        self,
        run: "Run | None" = None,
        outcomes: "Sequence[Outcome]" = (),
        failures: "Sequence[Failure]" = (),
    ) -> None:
        """The job is done. run: None where it was about training only; failures: what could not be trained then."""
        if run is not None:
            self._tell("results", run, outcomes)
        self._tell("close", FINISHED, failures)

    def _look_until(self, stop: threading.Event) -> None:
        while not stop.wait(_SECONDS_BETWEEN_LOOKS):
            self._look()

    def _look(self) -> None:
        for training, told in list(self._open.items()):
            try:
                whole = self._store.has(training.stage, training.key)
                curve = curve_so_far(self._store, training.stage, training.key)
            except Exception as error:  # a store elsewhere that does not answer now; the next look tells what is new
                self._note_once(f"tracking waits for the store: {one_line(error)}")
                return
            if len(curve) > told or whole:
                self._tell("curve", training, curve[told:], whole)
                self._open[training] = len(curve)
            if whole:
                del self._open[training]

    def _note_once(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._progress.note(text)

    def _tell(self, event: str, *arguments: object) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, event)(*arguments)
            except Exception as error:
                self._trackers.remove(tracker)
                if event != "close":  # what it has begun would look like work under way for ever
                    with contextlib.suppress(Exception):
                        tracker.close(FAILED)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self._progress.note(f"tracking stopped, the work goes on: {tracker.place}: {reason}")
