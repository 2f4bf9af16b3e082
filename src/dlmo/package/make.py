"""`dlmo package`: a run's model, or another of its files, as a folder or .zip that holds the package and no more."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dlmo.atomic import write_atomically
from dlmo.data.files import ARCHIVE_SUFFIXES, printable
from dlmo.errors import UserError
from dlmo.package.folder import check_writable, holds_package
from dlmo.package.opened import Package, open_package
from dlmo.package.parts import FILES, MANIFEST, UNFINISHED, origin, package_parts, write_parts
from dlmo.report.document import run_of
from dlmo.report.model_card import model_card
from dlmo.report.wording import described
from dlmo.study.results import Choice, Run


def make_package(
    run: str | Path, out: str | Path, artifact: str | None = None, tell: Callable[[str], None] = lambda note: None
) -> Path:
    """Write the package of a run's model to `out`, a folder or a name that ends in .zip; returns `out`.

    run: a folder that `dlmo optimize`, `study` or `compress` wrote. artifact: the name of one of its `artifacts`,
    for another file than the chosen one. tell: called with what whoever ships the package has to know.
    Raises UserError for what is no run and for an `out` that holds other things.
    """
    out = Path(out).expanduser()
    as_zip = out.suffix.lower() == ".zip"
    if not as_zip and out.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise UserError(f"--out {out}: of archives only a .zip is written; name that, or a folder")
    if as_zip:
        check_writable(out.parent)
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; name a file that ends in .zip, or a folder that does not")
        if out.exists() and not _is_package(out):
            raise UserError(f"--out {out} is a file that dlmo did not make; name another one")
    else:
        check_writable(out)
        _check_free(out)
    with open_package(Path(run).expanduser()) as found:
        parts = _parts(found, artifact, tell)
    try:
        if as_zip:
            out.parent.mkdir(parents=True, exist_ok=True)
            # Of names that begin with a dot nobody reads the members.
            write_atomically(out, _zipped(printable(out.stem).lstrip(".") or "package", parts))
        else:
            write_parts(out, parts)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(f"--out {out}: {error.strerror}{where}") from None
    return out


def _check_free(out: Path) -> None:
    """Only an older package may be replaced, whole or as an interrupted write left it: not a run, nor what a person
    keeps there."""
    if not out.is_dir():
        return
    found = [path.relative_to(out).as_posix().removesuffix(".part") for path in out.rglob("*") if not path.is_dir()]
    ours = holds_package(out) or (UNFINISHED in found and set(found) <= {UNFINISHED, *FILES})
    if found and (not ours or "results.json" in found):
        raise UserError(f"--out {out} holds other files; name a new folder, an empty one or an older package")


def _is_package(archive: Path) -> bool:
    """Whether a .zip is an older package, which may be replaced."""
    try:
        with open_package(archive) as found:
            return MANIFEST in found.names
    except UserError:
        return False


def _parts(found: Package, artifact: str | None, tell: Callable[[str], None]) -> dict[str, bytes]:
    run = _run(found)
    if artifact is None and run.choice is None and (best := described(run)) is not None:
        why = "no candidate meets the budget" if run.budget else "it was not asked to"
        tell(f"the run chose no model ({why}): this is its most accurate one, {best.recipe}; --artifact takes another")
    chosen = run.choice.result.artifact if run.choice else None
    if artifact is None or artifact == chosen:
        content, card = found.read("model.tflite"), found.read("model_card.md").decode()
        result = described(run)
    else:
        result = next((result for result in run.results if result.artifact == artifact), None)
        if result is None or f"artifacts/{artifact}" not in found.names:
            known = ", ".join(result.artifact for result in run.results)
            raise UserError(f'{found.path} has no artifact "{artifact}"; it has {known}')
        content = found.read(f"artifacts/{artifact}")
        reason = f"taken by name; the run chose {chosen}" if chosen else "taken by name; the run chose none"
        card = model_card(replace(run, choice=Choice(result, (reason,), (), "")))
    arena = result.arena_bytes if result else None
    made_by = origin(result, run.dataset) if result else {}
    return package_parts(content, found.labels(), found.preprocessing(), found.golden("images"), card, made_by, arena)


def _run(found: Package) -> Run:
    if "results.json" not in found.names:
        raise UserError(f"{found.path} holds no results.json: name the folder that optimize, study or compress wrote")
    try:
        return run_of(json.loads(found.read("results.json")))
    except ValueError as error:
        raise UserError(f"{found.path}: results.json is damaged ({error}); run dlmo again") from None


def _zipped(name: str, parts: dict[str, bytes]) -> bytes:
    """A zip with everything in one folder; the same parts give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for part, data in parts.items():
            member = zipfile.ZipInfo(f"{name}/{part}")
            member.external_attr = 0o644 << 16  # readable for others than who unpacks it
            archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
