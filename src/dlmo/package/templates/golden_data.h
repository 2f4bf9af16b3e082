// Inputs as the model takes them, and the outputs expected for them.
#ifndef GOLDEN_DATA_H_
#define GOLDEN_DATA_H_

#include <cstdint>

#include "labels.h"

using Input = $input_type;
using Output = $output_type;

constexpr int kVectors = $vectors;
constexpr int kInputSize = $input_size;
// Kernels round differently. An output that is off by more is no rounding; in units of Output.
constexpr float kTolerance = $tolerance;

extern const Input kGoldenInputs[kVectors][kInputSize];
extern const Output kGoldenOutputs[kVectors][kClasses];

#endif  // GOLDEN_DATA_H_
