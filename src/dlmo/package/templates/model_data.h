// The .tflite file as an array.
#ifndef MODEL_DATA_H_
#define MODEL_DATA_H_

extern const unsigned char kModelData[];
extern const unsigned int kModelDataSize;

#endif  // MODEL_DATA_H_
