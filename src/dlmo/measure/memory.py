"""Memory that running a file takes, measured in a process of its own."""

import subprocess
import sys

_CHILD = """
import resource, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024

content = sys.stdin.buffer.read()
before = peak()
interpreter = Interpreter(model_content=content, num_threads=1)
interpreter.allocate_tensors()
entry = interpreter.get_input_details()[0]
interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
for _ in range(3):
    interpreter.invoke()
print(peak() - before)
"""


def measure_memory(content: bytes) -> int | None:
    """Growth in bytes of a process's peak memory by loading the file and running it (one thread).

    Includes what the runtime makes of the weights, not the interpreter library. None where the system does not
    tell (no /proc).
    """
    child = subprocess.run([sys.executable, "-c", _CHILD], input=content, capture_output=True, timeout=120)
    if child.returncode != 0:
        return None
    return int(child.stdout)
