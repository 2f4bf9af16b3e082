#include "model_data.h"

alignas(16) const unsigned char kModelData[] = {
$model_bytes};
const unsigned int kModelDataSize = $model_size;
