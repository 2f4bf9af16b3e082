"""Temperature, clock and signs of throttling, on made-up file systems and a made-up vcgencmd."""

import os

import pytest

from dlmo.measure.device.conditions import Conditions, conditions, slowed


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes files of /sys, and a vcgencmd that says what it is told."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    def write(files=None, throttled=None):
        for name, text in (files or {}).items():
            path = tmp_path / "sys" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        if throttled is not None:
            tool = tmp_path / "bin" / "vcgencmd"
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(f"#!/bin/sh\necho throttled={throttled}\n")
            tool.chmod(0o755)
        return conditions(tmp_path)

    return write


def test_a_system_that_tells_nothing(system):
    assert system() == Conditions(None, None, ())


def test_the_processors_zone_is_taken_before_others(system):
    found = system(
        {
            "class/thermal/thermal_zone0/type": "battery",
            "class/thermal/thermal_zone0/temp": 70000,
            "class/thermal/thermal_zone1/type": "cpu-thermal",
            "class/thermal/thermal_zone1/temp": 48312,
            "class/thermal/thermal_zone2/type": "gpu_broken_soc",
            "class/thermal/thermal_zone2/temp": -274000,
            "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 600000,
            "devices/system/cpu/cpu3/cpufreq/scaling_cur_freq": 1500000,
        }
    )
    assert found == Conditions(48.312, 1500.0, ())


def test_linux_says_when_it_cools_the_processor(system):
    files = {
        "class/thermal/cooling_device0/type": "cpufreq-cpu0",
        "class/thermal/cooling_device0/cur_state": 0,
        "class/thermal/cooling_device1/type": "pwm-fan",
        "class/thermal/cooling_device1/cur_state": 3,
    }
    assert system(files).limits == ()
    (limit,) = system(files | {"class/thermal/cooling_device0/cur_state": 2}).limits
    assert "cpufreq-cpu0" in limit


@pytest.mark.parametrize(
    "said, limits",
    [
        ("0x0", ()),
        ("0x50000", ()),  # some time since the start, not now
        ("0x50005", ("vcgencmd: under-voltage", "vcgencmd: throttled")),
        ("nonsense", ()),
    ],
)
def test_a_raspberry_pi_says_why_it_is_slow(system, said, limits):
    assert system(throttled=said).limits == limits


def test_what_counts_as_slowed_down():
    steady = [Conditions(50.0, 1500.0, ()), Conditions(55.0, 1400.0, ()), Conditions(None, None, ())]
    assert slowed(steady) == [] and slowed([]) == []
    assert slowed([*steady, Conditions(84.0, 1000.0, ())]) == ["clock between 1000 and 1500 MHz"]
    assert slowed([*steady, Conditions(84.0, 1500.0, ("hot",))]) == ["hot"]
