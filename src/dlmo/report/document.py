"""From results.json back to a run, to print it again."""

from dataclasses import fields
from typing import TYPE_CHECKING

from dlmo.errors import UserError
from dlmo.measure.targets import Measured
from dlmo.study.results import Choice, Failure, Result, Run, Rung, Search, StepWorth, Trial

if TYPE_CHECKING:
    from dlmo.strategy.findings import Finding


def run_of(document: dict) -> Run:
    """The run a results.json tells of; confusion, mistakes and curves are on the page only.

    Raises UserError where the document is none of dlmo's.
    """
    try:
        return Run(
            title=str(document["dataset"].get("command", "dlmo")),
            dataset=document["dataset"],
            target=document["target"],
            machine=document["machine"],
            budget=document["budget"],
            results=tuple(map(_result, document["results"])),
            choice=_choice(document["choice"]) if document["choice"] else None,
            nearest=tuple(document.get("nearest", ())),
            notes=tuple(document.get("notes", ())),
            classes=tuple(document["dataset"].get("classes", ())),
            confusion=(),
            mistakes=(),
            search=_search(document["search"]) if document.get("search") else None,
            failures=tuple(Failure(**failure) for failure in document.get("failures", ())),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _of_another_version(error) from None


def findings_of(document: dict) -> "tuple[Finding, ...]":
    """The findings that the results.json of a paper's grid tells of."""
    from dlmo.strategy.findings import Case, Finding

    try:
        return tuple(
            Finding(entry["claim"], tuple(Case(**case) for case in entry["cases"])) for entry in document["findings"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _of_another_version(error) from None


def _of_another_version(error: Exception) -> UserError:
    return UserError(f"results.json was not written by this version of dlmo ({error}); run dlmo again")


def _choice(entry: dict) -> Choice:
    worth = tuple(StepWorth(**step) for step in entry["worth"])
    waterfall = tuple(Rung(**rung) for rung in entry["waterfall"])
    return Choice(_result(entry), tuple(entry["reasons"]), worth, entry["advice"], waterfall)


def _search(entry: dict) -> Search:
    return Search(**entry | {"trials": tuple(Trial(**trial) for trial in entry["trials"])})


def _result(entry: dict) -> Result:
    known = {field.name: entry[field.name] for field in fields(Result) if field.name in entry}
    elsewhere = {name: Measured(**_with_tuples(there)) for name, there in known.get("elsewhere", {}).items()}
    return Result(**_with_tuples(known) | {"elsewhere": elsewhere})


def _with_tuples(entry: dict) -> dict:
    """JSON has lists only."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
