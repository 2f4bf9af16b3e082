"""The study's findings and advice, put to the test of our own measurements.

Every finding is split into cases, one per network and data set; each case holds, does not, or cannot be told by the
images there are. The verdict counts them. Nothing here is text about results: all figures come from results.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dlmo.measure.statistics import PairedTest
from dlmo.networks import plain_name
from dlmo.strategy.budget import SERVICES, STUDY_ADVICE
from dlmo.strategy.choose import pick
from dlmo.study.results import Result

Compare = Callable[[Result, Result], PairedTest]

# Latencies of one run closer than this are the same.
_SAME_LATENCY = 0.05
_QUARTER, _HALF = 0.30, 0.55
# All orders of eight networks; of more so many are drawn.
_ORDERS = 50_000


@dataclass(frozen=True)
class Measured:
    """What was measured on one data set with one seed: a result per network and setup, the paired test between two."""

    results: tuple[Result, ...]
    compare: Compare

    def of(self, network: str, setup: str) -> Result | None:
        """network: by its name, with or without its stem."""
        known = [r for r in self.results if r.setup == setup and network in (r.network, plain_name(r.network))]
        return next((r for r in known if r.network == network), known[0] if known else None)

    def pairs(self, first: str, second: str) -> Iterable[tuple[Result, Result]]:
        """Results of two setups for each network that has both."""
        for network in dict.fromkeys(result.network for result in self.results):
            one, other = self.of(network, first), self.of(network, second)
            if one and other:
                yield one, other


@dataclass(frozen=True)
class Case:
    """A finding on one network and data set. holds: None where the images cannot tell."""

    dataset: str
    network: str
    holds: bool | None
    figures: str


@dataclass(frozen=True)
class Finding:
    """A claim of the study and our cases of it."""

    claim: str
    cases: tuple[Case, ...]

    @property
    def verdict(self) -> str:
        """holds, does not hold here, holds in part, cannot be told; with the counts."""
        told = [case.holds for case in self.cases if case.holds is not None]
        if not told:
            return "cannot be told"
        if all(told):
            word = "holds"
        elif not any(told):
            word = "does not hold here"
        else:
            word = "holds in part"
        untold = len(self.cases) - len(told)
        return f"{word} ({sum(told)} of {len(told)} cases{f', {untold} cannot be told' if untold else ''})"


def findings(measured: Mapping[str, Measured]) -> tuple[Finding, ...]:
    """Every finding and every tier's advice of the study, tested. measured: by data set name (and seed)."""
    return (
        _paired(
            measured,
            "int8 (FIQ) cuts the file to a quarter at equal accuracy",
            "NQ",
            "FIQ",
            lambda plain, other, test: other.size_bytes <= _QUARTER * plain.size_bytes and not _worse(test),
        ),
        _paired(
            measured,
            "int8 (FIQ) is slower than float",
            "NQ",
            "FIQ",
            lambda plain, other, test: other.latency_ms > plain.latency_ms * (1 + _SAME_LATENCY),
        ),
        _paired(
            measured,
            "F16 halves the file at no cost in accuracy or time",
            "NQ",
            "F16",
            lambda plain, other, test: (
                other.size_bytes <= _HALF * plain.size_bytes
                and not _worse(test)
                and other.latency_ms <= plain.latency_ms * (1 + _SAME_LATENCY)
            ),
        ),
        _paired(
            measured,
            "PRN cuts the file and the latency",
            "NQ",
            "PRN",
            lambda plain, other, test: (
                other.size_bytes < plain.size_bytes and other.latency_ms < plain.latency_ms * (1 - _SAME_LATENCY)
            ),
        ),
        _prn_pays_on_larger(measured),
        _compared_networks(
            measured, "v3 underperforms v2 on CIFAR", ("mobilenet_v3_large", "mobilenet_v3_small"), "mobilenet_v2"
        ),
        _wide_resnet_best(measured),
        *(_tier(measured, service) for service in SERVICES),
    )


def findings_on_teaching(measured: Mapping[str, Measured]) -> tuple[Finding, ...]:
    """What the study's Table 14 says of distillation, tested. measured: as for `findings`."""
    return (
        _paired(
            measured,
            "KD makes a network more accurate, with as many updates",
            "NQ",
            "KD",
            lambda plain, taught, test: None if test.p_value >= 0.05 else test.gain > 0,
        ),
        _collapse(measured),
        *(
            _paired(
                measured, f"{setup} is as accurate as KD", "KD", setup, lambda taught, other, test: not _worse(test)
            )
            for setup in ("KD+F16", "KD+PRN")
        ),
    )


def _collapse(measured: Mapping[str, Measured]) -> Finding:
    """MobileNet v3 lost in the study: 60.5 % with a teacher, 68.8 and 77.9 % without."""
    cases = []
    for dataset, data in measured.items():
        for plain, taught in data.pairs("NQ", "KD"):
            if plain_name(plain.network) not in ("mobilenet_v3_large", "mobilenet_v3_small"):
                continue
            test = data.compare(plain, taught)
            figures = (
                f"{100 * plain.accuracy:.1f} % without, {100 * taught.accuracy:.1f} % with a teacher: {test.sentence()}"
            )
            cases.append(Case(dataset, plain.network, _worse(test), figures))
    return Finding("v3 collapses with a teacher (to 60.5 %)", tuple(cases))


def _worse(test: PairedTest) -> bool:
    return test.gain < 0 and test.p_value < 0.05


def _paired(
    measured: Mapping[str, Measured],
    claim: str,
    first: str,
    second: str,
    holds: Callable[[Result, Result, PairedTest], bool | None],
) -> Finding:
    cases = []
    for dataset, data in measured.items():
        for plain, other in data.pairs(first, second):
            test = data.compare(plain, other)
            figures = (
                f"size x {other.size_bytes / plain.size_bytes:.2f}, "
                f"latency x {other.latency_ms / plain.latency_ms:.2f}, accuracy: {test.sentence()}"
            )
            cases.append(Case(dataset, plain.network, holds(plain, other, test), figures))
    return Finding(claim, tuple(cases))


def _prn_pays_on_larger(measured: Mapping[str, Measured]) -> Finding:
    """Per data set: do networks with a larger float file gain more accuracy by PRN? By rank correlation."""
    from scipy.stats import spearmanr

    cases = []
    for dataset, data in measured.items():
        pairs = list(data.pairs("NQ", "PRN"))
        if len(pairs) < 4:
            continue
        sizes = [plain.size_bytes for plain, _ in pairs]
        gains = [pruned.accuracy - plain.accuracy for plain, pruned in pairs]
        p_value = _exact_p(sizes, gains)
        rank = float(spearmanr(sizes, gains).statistic) if p_value < 1 else 0.0
        told = rank > 0 if p_value < 0.05 else None
        figures = (
            f"rank correlation of file size and accuracy gained {rank:+.2f} over {len(pairs)} networks "
            f"(p = {p_value:.2f})"
        )
        cases.append(Case(dataset, "all", told, figures))
    return Finding("PRN pays more on larger networks", tuple(cases))


def _exact_p(first: Sequence[float], second: Sequence[float]) -> float:
    """How often, 0 to 1, orders drawn at random correlate as much by rank; of a few networks the usual formula tells
    far too little. 1 where one side has no order."""
    from scipy.stats import permutation_test, rankdata

    ranks, others = rankdata(first), rankdata(second)
    if np.ptp(ranks) == 0 or np.ptp(others) == 0:
        return 1.0
    around = others - others.mean()  # a sum of products with it rises with the correlation

    def likeness(x: np.ndarray, axis: int) -> np.ndarray:
        return (x * around).sum(axis)

    found = permutation_test((ranks,), likeness, permutation_type="pairings", n_resamples=_ORDERS, vectorized=True)
    return float(found.pvalue)


def _compared_networks(
    measured: Mapping[str, Measured], claim: str, lower: Sequence[str], higher: str, setup: str = "NQ"
) -> Finding:
    cases = []
    for dataset, data in measured.items():
        best = data.of(higher, setup)
        for network in lower:
            other = data.of(network, setup)
            if best and other:
                test = data.compare(best, other)
                told = None if test.p_value >= 0.05 else test.gain < 0
                cases.append(Case(dataset, network, told, f"against {higher}, both {setup}: {test.sentence()}"))
    return Finding(claim, tuple(cases))


def _wide_resnet_best(measured: Mapping[str, Measured]) -> Finding:
    cases = []
    for dataset, data in measured.items():
        plain = [result for result in data.results if result.setup == "NQ"]
        wider = [result for result in plain if result.network.startswith("wide_resnet")]
        rivals = [result for result in plain if result not in wider]
        if not wider or not rivals:
            continue
        wide = max(wider, key=lambda result: result.validation_accuracy)
        rival = max(rivals, key=lambda result: result.validation_accuracy)  # test images only test
        test = data.compare(rival, wide)
        told = None if test.p_value >= 0.05 else test.gain > 0
        cases.append(Case(dataset, wide.network, told, f"against {rival.network}, the best other: {test.sentence()}"))
    return Finding("the wide residual network is the most accurate", tuple(cases))


def _tier(measured: Mapping[str, Measured], service: str) -> Finding:
    """Per network: is the setup the study advises for this tier the one the measurements pick?"""
    advised = STUDY_ADVICE[service]
    cases = []
    for dataset, data in measured.items():
        for network in dict.fromkeys(result.network for result in data.results):
            results = [result for result in data.results if result.network == network]
            setups = {result.setup for result in results}
            if "NQ" not in setups or not setups & set(advised):  # nothing to choose from, or no loss to measure
                continue
            best = pick(results, SERVICES[service])
            if best is None:
                cases.append(Case(dataset, network, None, "nothing meets the tier's limits"))
                continue
            rival = max((r for r in results if r.setup in advised), key=lambda r: r.validation_accuracy)
            figures = (
                f"picked {best.setup}: {best.size_bytes / 1000:,.0f} KB, {best.latency_ms:.3g} ms, "
                f"{100 * best.accuracy:.1f} %; advised {rival.setup}: {rival.size_bytes / 1000:,.0f} KB, "
                f"{rival.latency_ms:.3g} ms, {100 * rival.accuracy:.1f} %"
            )
            cases.append(Case(dataset, network, best.setup in advised, figures))
    return Finding(f"{service}-end service: {' or '.join(advised)}", tuple(cases))
