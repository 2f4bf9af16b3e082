"""The figures the reference study printed (Lee, Lee, Lee: Sensors 22(19), 2022, 7344; Tables 5 to 14).

`published.csv` names networks as dlmo does. Its latency is that of its machine over an unstated number of images, so
only ratios of latencies within a network can be compared; its PRN and PRQ sizes are sizes after compression.
"""

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

from dlmo.networks.registry import plain_name

NETWORKS = (
    "vgg",
    "resnet50",
    "resnet101",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "wide_resnet_34_1",
)
SETUPS = ("NQ", "BLQ", "FIQ", "F16", "QAT", "PRN", "PRQ")
DATASETS = ("cifar10", "cifar100")
# Table 14, on CIFAR-10 alone; it printed KD, and KD+F16 and KD+PRN of the first two networks.
TAUGHT_NETWORKS = ("mobilenet_v1", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")
TAUGHT_SETUPS = ("KD", "KD+F16", "KD+PRN", "KD+PRQ", "KD+FIQ")


@dataclass(frozen=True)
class Published:
    """One printed row. accuracy: 0 to 1; size_kb and latency_ms None where the print is unusable; note says why."""

    network: str
    dataset: str
    setup: str
    accuracy: float
    size_kb: float | None
    latency_ms: float | None
    note: str


def printed(network: str, dataset: str, setup: str) -> Published | None:
    """What the study printed of it, whatever stem the network has here."""
    return published().get((plain_name(network), dataset, setup))


@cache
def published() -> dict[tuple[str, str, str], Published]:
    """Every printed row by (network, dataset, setup). Not every network has every setup."""
    with resources.files("dlmo.study").joinpath("published.csv").open(encoding="utf-8") as file:
        rows = [
            Published(
                row["network"],
                row["dataset"],
                row["setup"],
                round(float(row["accuracy_percent"]) / 100, 4),
                float(row["size_kb"]) if row["size_kb"] else None,
                float(row["latency_ms"]) if row["latency_ms"] else None,
                row["note"],
            )
            for row in csv.DictReader(file)
        ]
    return {(row.network, row.dataset, row.setup): row for row in rows}
