// Runs the golden inputs through TensorFlow Lite Micro and compares with the outputs expected for them.
// To classify an image: fill `input` with its $input_type values as preprocessing.json says, Invoke(), take the
// largest output.

#include <cstdint>
#include <cstring>

#include "golden_data.h"
#include "labels.h"
#include "model_data.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_log.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/micro/system_setup.h"
#include "tensorflow/lite/schema/schema_generated.h"

namespace {

// Memory for activations and what the interpreter keeps, in bytes; $arena_source by dlmo. What is really used is
// printed below: set this to it.
constexpr size_t kArenaBytes = $arena_bytes;
alignas(16) uint8_t arena[kArenaBytes];

// Exactly the operators of the model, so that no other kernel is linked.
using Resolver = tflite::MicroMutableOpResolver<$operator_count>;

bool AddOperators(Resolver& resolver) {
$operators
  return true;
}

template <typename T>
int Largest(const T* values) {
  int best = 0;
  for (int i = 1; i < kClasses; ++i) {
    if (values[i] > values[best]) best = i;
  }
  return best;
}

// Runs one golden input; true when every output is as expected within kTolerance.
bool Replay(tflite::MicroInterpreter& interpreter, int vector) {
  std::memcpy(interpreter.input(0)->data.raw, kGoldenInputs[vector], sizeof(kGoldenInputs[vector]));
  if (interpreter.Invoke() != kTfLiteOk) return false;
  const Output* found = tflite::GetTensorData<Output>(interpreter.output(0));
  const Output* expected = kGoldenOutputs[vector];
  bool close = true;
  float largest = 0;
  for (int i = 0; i < kClasses; ++i) {
    float difference = static_cast<float>(found[i]) - static_cast<float>(expected[i]);
    if (difference < 0) difference = -difference;
    close = close && difference <= kTolerance;
    if (difference > largest) largest = difference;
  }
  MicroPrintf("golden input %d: %s, expected %s; largest difference %d thousandths of a unit", vector,
              kLabels[Largest(found)], kLabels[Largest(expected)], static_cast<int>(largest * 1000));
  return close;
}

}  // namespace

int main() {
  tflite::InitializeTarget();
  const tflite::Model* model = tflite::GetModel(kModelData);
  static Resolver resolver;
  if (!AddOperators(resolver)) return 1;
  static tflite::MicroInterpreter interpreter(model, resolver, arena, kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    MicroPrintf("kArenaBytes is too small");
    return 1;
  }
  MicroPrintf("arena used: %u of %u bytes", static_cast<unsigned>(interpreter.arena_used_bytes()),
              static_cast<unsigned>(kArenaBytes));
  bool passed = true;
  for (int vector = 0; vector < kVectors; ++vector) passed = Replay(interpreter, vector) && passed;
  MicroPrintf(passed ? "self-test passed" : "self-test FAILED");
  return passed ? 0 : 1;
}
