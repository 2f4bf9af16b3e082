"""Runtimes: how a trained network becomes a file, and how that file is run.

Only `convert` needs torch; reading, running and measuring a file needs `ai-edge-litert` and numpy.
"""

import os


def cores() -> int:
    """How many threads may run files: OMP_NUM_THREADS, which a cluster sets to a stage's share; else all cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else os.cpu_count() or 1
