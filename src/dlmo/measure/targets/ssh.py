"""Target `ssh:USER@HOST[:PORT][?python=PATH]`: a device that is reached over ssh, under the runtime it has."""

import io
from collections.abc import Sequence

import numpy as np

from dlmo.errors import UserError
from dlmo.measure.agreement import agreement
from dlmo.measure.device.openssh import ask, parse_address
from dlmo.measure.device.readiness import readiness
from dlmo.measure.targets import CannotRun, Measured
from dlmo.measure.targets.host import Host
from dlmo.progress import Progress


class Ssh(Host):
    """Scores are this machine's: those of thousands of images would take a small board hours. The device computes the
    golden images' only, and these are compared."""

    def __init__(self, rest: str = "") -> None:
        super().__init__()
        self.name = f"ssh:{rest}"
        self._address = parse_address(rest)

    def check(self) -> None:
        found = readiness(self.name, self._address)
        if not found.usable:
            raise UserError(found.advice())

    def measure(
        self, contents: Sequence[bytes], threads: int, progress: Progress, golden: np.ndarray
    ) -> list[Measured | CannotRun]:
        array = io.BytesIO()
        np.save(array, golden)
        files = {f"{index}.tflite": content for index, content in enumerate(contents)}
        with progress.stage(f"measure on {self.name}") as update:
            request = ["measure", str(threads)]
            answer = ask(self._address, request, files | {"golden.npy": array.getvalue()}, update)
        try:
            words, slowed = _device_words(answer), _slowed(answer)
            found = [
                CannotRun(f"{self.name}: {entry['refused']}")
                if "refused" in entry
                else _measured(content, golden, entry, threads, words, slowed)
                for content, entry in zip(contents, answer["files"], strict=True)
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{self.name} gave no sensible answer ({error!r})") from None
        return found


def _measured(
    content: bytes, golden: np.ndarray, entry: dict, threads: int, words: str, doubts: tuple[str, ...]
) -> Measured:
    """What the runner found of one file (see runner.measure), and whether it computes there what it does here."""
    from dlmo.runtimes.litert.interpreter import Runner, delegation_of, dequantized

    here = Runner(content)
    expected = here.run(here.prepare(golden))
    scores = np.array(entry["scores"], here.output["dtype"])
    if scores.shape != expected.shape:
        raise ValueError(f"scores {scores.shape}")
    compared = agreement(expected, dequantized(scores, here.output["quantization"]))
    known = f"{len(golden)} golden images answered by the device as here, within the tolerance"
    if not compared.passed:
        known = f"the device answers {compared.same_answers} of {len(golden)} golden images the same"
        doubts += (
            f"{known}, scores differ by up to {compared.share:.0%} of the largest: accuracies, which are this "
            "machine's, may not hold there",
        )
    partitions, delegated = delegation_of(entry["nodes"], entry["output"])
    latencies = {int(count): (float(p50), float(p90)) for count, (p50, p90) in entry["latency"].items()}
    return Measured(
        ram_bytes=None if entry["ram_bytes"] is None else int(entry["ram_bytes"]),
        ram_source="measured",
        latency_ms=latencies[threads][0],
        latency_p90_ms=latencies[threads][1],
        latency_source="measured",
        delegated=delegated,
        partitions=partitions,
        latency_by_threads={str(count): p50 for count, (p50, _) in latencies.items()},
        accuracy_source=f"measured on this machine; {known}",
        device=words,
        doubts=doubts,
    )


def _device_words(answer: dict) -> str:
    """Processor, runtime, and the conditions of the measurement as far as the device told them."""
    facts, before = answer["facts"], answer["before"]
    parts = [facts["cpu"], f"{facts['cores']} cores", facts["instructions"]]
    parts.append(f"{facts['runtime']} {facts['runtime_version']}")
    if answer["temperature_c"] is not None and before["temperature_c"] is not None:
        parts.append(f"{before['temperature_c']:.0f} C before, {answer['temperature_c']:.0f} C at most")
    if answer["clock_mhz"] is not None:
        parts.append(f"{answer['clock_mhz']:.0f} MHz")
    return ", ".join(part for part in parts if part)


def _slowed(answer: dict) -> tuple[str, ...]:
    if not answer["slowed"]:
        return ()
    signs = "; ".join(answer["slowed"])
    return (f"the device was slowed down while it was measured ({signs}): latencies are too long",)
