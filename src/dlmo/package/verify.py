"""`dlmo verify`: does a package still hold what was put in, and does this machine compute what it should?"""

from dataclasses import asdict, dataclass
from pathlib import Path

from dlmo.errors import UserError
from dlmo.package.opened import Package, open_package
from dlmo.package.run import TOLERANCE, Replay, replay


@dataclass(frozen=True)
class Verification:
    """files: how many had the manifest's SHA-256 (all, or there is an error instead); replay: the golden images."""

    package: str
    files: int
    replay: Replay

    @property
    def passed(self) -> bool:
        return self.replay.passed

    def to_json(self) -> dict:
        numbers = asdict(self.replay) | {"tolerance": TOLERANCE}
        return {"package": self.package, "files": self.files, **numbers, "passed": self.passed}


def verify(package: str | Path) -> Verification:
    """Check every file of a package (folder or .zip) and run its golden images on this machine.

    Raises UserError where a part is missing or damaged.
    """
    with open_package(Path(package).expanduser()) as found:
        return _verify(found)


def _verify(found: Package) -> Verification:
    if not found.digests:
        raise UserError(f"{found.path}: manifest.json is missing; write the package with `dlmo package`")
    for name in found.digests:
        found.read(name)
    model = found.model()
    images, inputs, outputs = (found.golden(name) for name in ("images", "inputs", "outputs"))
    shapes = [images.shape[1:], inputs.shape[1:], outputs.shape[1:]]
    expected = [tuple(model.input["shape"][1:])] * 2 + [(len(model.labels),)]
    if shapes != expected or not 0 < len(images) == len(inputs) == len(outputs):
        raise UserError(f"{found.path}: the golden arrays do not fit the model: {shapes}, expected {expected}")
    return Verification(str(found.path), len(found.digests), replay(model, images, inputs, outputs))
