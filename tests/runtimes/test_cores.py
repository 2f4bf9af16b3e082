import os

import pytest

from dlmo.runtimes import cores


@pytest.mark.parametrize(
    "given, expected", [("3", 3), ("", os.cpu_count()), ("0", os.cpu_count()), ("many", os.cpu_count())]
)
def test_a_share_of_the_cores_may_be_given(given, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert cores() == expected
