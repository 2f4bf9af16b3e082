#include "golden_data.h"

const Input kGoldenInputs[kVectors][kInputSize] = {
$inputs};

const Output kGoldenOutputs[kVectors][kClasses] = {
$outputs};
