"""Flash of TensorFlow Lite Micro on a Cortex-M4: a whole linked program, then what each further operator adds.

    python benchmarks/flash.py --tflite-micro DIR --flatbuffers DIR --gemmlowp DIR --ruy DIR

The folders are checkouts of the projects; the compiler is gcc for bare-metal Arm (Debian: gcc-arm-none-eabi and
libstdc++-arm-none-eabi-newlib). The program holds an interpreter with a resolver and runs a model it is given from
outside, so no model is counted. Each operator is registered as `Add...()` does by default: reference kernels, all
types. Operators share code, much of it with CONV_2D, which every network here has: the base program holds it already.
Prints the tables that
dlmo.runtimes.tflm.flash holds, in bytes of .text + .rodata + .data.
"""

import argparse
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dlmo.runtimes.tflm.flash import RESOLVER_METHODS

_PROGRAM = """
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
extern "C" const unsigned char* model_from_outside;
extern "C" unsigned char* arena_from_outside;
extern "C" const int arena_bytes_from_outside;
int main() {{
  static tflite::MicroMutableOpResolver<{count}> resolver;
{additions}
  static tflite::MicroInterpreter interpreter(tflite::GetModel(model_from_outside), resolver, arena_from_outside,
                                              arena_bytes_from_outside);
  if (interpreter.AllocateTensors() != kTfLiteOk) return 1;
  return interpreter.Invoke() == kTfLiteOk ? interpreter.output(0)->data.int8[0] : 1;
}}
"""
_OUTSIDE = """
extern "C" { const unsigned char* model_from_outside; unsigned char* arena_from_outside; int arena_bytes_from_outside; }
"""
_MACHINE = ["-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"]
# As in TensorFlow Lite Micro's own makefile, release build. The version of flatbuffers is asserted to the revision.
_FLAGS = [
    "-std=c++17", "-Os", "-DNDEBUG", "-DTF_LITE_STATIC_MEMORY", "-DTF_LITE_STRIP_ERROR_STRINGS", "-fno-rtti",
    "-fno-exceptions", "-fno-threadsafe-statics", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables",
    "-ffunction-sections", "-fdata-sections", "-w", "-Dstatic_assert(...)=",
]  # fmt: skip
_LINK = ["--specs=nano.specs", "--specs=nosys.specs", "-Wl,--gc-sections", "-Wl,--no-warnings"]
_LEFT_OUT = ("_test", "fake_", "mock_", "recording_", "test_helper", "benchmark", "debug_log", "ethosu", "decompress")
_SOURCES = (
    "micro", "micro/arena_allocator", "micro/memory_planner", "micro/tflite_bridge", "micro/kernels", "core/api",
    "core/c", "kernels", "kernels/internal", "kernels/internal/reference",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tflite-micro", "flatbuffers", "gemmlowp", "ruy"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    includes = [given.tflite_micro, given.flatbuffers / "include", given.gemmlowp, given.ruy]
    flags = [*_MACHINE, *_FLAGS, *(f"-I{folder}" for folder in includes)]
    lite = given.tflite_micro / "tensorflow" / "lite"
    sources = [path for folder in _SOURCES for path in sorted((lite / folder).glob("*.cc"))]
    sources += sorted((given.tflite_micro / "tensorflow/compiler/mlir/lite/core/api").glob("*.cc"))
    sources += sorted((given.tflite_micro / "tensorflow/compiler/mlir/lite/schema").glob("*.cc"))
    sources = [path for path in sources if not any(part in path.name for part in _LEFT_OUT)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(lambda entry: _compile(entry[1], folder / f"{entry[0]}.o", flags), enumerate(sources))
            objects = [path for path in made if path is not None]
        library = folder / "library.a"
        subprocess.run(["arm-none-eabi-ar", "rcs", library, *objects], check=True)
        first = RESOLVER_METHODS["CONV_2D"]
        base = _program_bytes(folder, library, [first], flags)
        print(f"BASE_BYTES = {base:_}")
        for operator, method in RESOLVER_METHODS.items():
            if method != first:
                print(f'    "{operator}": {_program_bytes(folder, library, [first, method], flags) - base:_},')
        together = ["AddConv2D", "AddDepthwiseConv2D", "AddAdd", "AddPad", "AddMean", "AddFullyConnected"]
        print(f"# with {', '.join(together)}: {_program_bytes(folder, library, together, flags)} in all")


def _compile(source: Path, target: Path, flags: list[str]) -> Path | None:
    """The object file; None for a source that needs what is not here (reported)."""
    done = subprocess.run(["arm-none-eabi-g++", *flags, "-c", source, "-o", target], capture_output=True, text=True)
    if done.returncode == 0:
        return target
    print(f"# left out {source.name}: {done.stderr.strip().splitlines()[0]}")
    return None


def _program_bytes(folder: Path, library: Path, methods: list[str], flags: list[str]) -> int:
    """Bytes of flash of a program whose resolver has these operators."""
    additions = "\n".join(f"  resolver.{method}();" for method in methods)
    (folder / "main.cc").write_text(_PROGRAM.format(count=max(1, len(methods)), additions=additions))
    (folder / "outside.cc").write_text(_OUTSIDE)
    program = folder / "program.elf"
    command = ["arm-none-eabi-g++", *flags, *_LINK, folder / "main.cc", folder / "outside.cc", library, "-lm"]
    subprocess.run([*command, "-o", program], check=True)
    text, data, *_ = subprocess.run(
        ["arm-none-eabi-size", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()[1].split()  # fmt: skip
    return int(text) + int(data)


if __name__ == "__main__":
    main()
