// A program of the arrays alone: prints the model's size, a sum over its bytes, and how many golden values there are.
#include <cstdint>
#include <cstdio>

#include "golden_data.h"
#include "model_data.h"

int main() {
  uint32_t sum = 0;
  for (unsigned int i = 0; i < kModelDataSize; ++i) sum += kModelData[i];
  float golden = 0;
  for (int v = 0; v < kVectors; ++v) {
    for (int i = 0; i < kInputSize; ++i) golden += kGoldenInputs[v][i];
    for (int i = 0; i < kClasses; ++i) golden += kGoldenOutputs[v][i];
  }
  const bool aligned = reinterpret_cast<uintptr_t>(kModelData) % 16 == 0;
  printf("%u %lu %d %d %s\n", kModelDataSize, static_cast<unsigned long>(sum), static_cast<int>(golden), aligned,
         kLabels[kClasses - 1]);
  return 0;
}
