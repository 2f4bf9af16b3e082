import subprocess
import sys

from dlmo.watchdog import Watchdog


def test_a_process_that_keeps_others_waiting_is_ended():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        patient, hasty = Watchdog(process, patience=60), Watchdog(process, patience=0.1)
        with patient.watching():
            assert process.poll() is None
        with hasty.watching():
            assert process.stdout.read() == b""  # returns at the end of the process, not before
    assert hasty.barked and not patient.barked
    assert process.returncode != 0
