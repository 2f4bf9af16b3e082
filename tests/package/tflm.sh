#!/usr/bin/env bash
# Builds DIR/libtflm.a, TensorFlow Lite Micro with its reference kernels, for Cortex-M4.
#   tests/package/tflm.sh DIR
# DIR holds checkouts by these names: tflite-micro, flatbuffers (the release that tflite-micro's
# flatbuffers_download.sh names), gemmlowp, ruy. All are on GitHub; no package registry has them. Takes minutes.
set -euo pipefail
cd "$1/tflite-micro"
objects=../objects
mkdir -p $objects
flags="-mcpu=cortex-m4 -mthumb -mfloat-abi=soft -Os -std=c++17 -ffunction-sections -fdata-sections -fno-exceptions
    -fno-rtti -fno-threadsafe-statics -DTF_LITE_STATIC_MEMORY -DNDEBUG -w -I. -I../flatbuffers/include -I../gemmlowp
    -I../ruy"
ls tensorflow/lite/micro/{*,{kernels,memory_planner,arena_allocator,tflite_bridge}/*}.cc \
    tensorflow/lite/core/{api,c}/*.cc tensorflow/lite/kernels/{*,internal/{*,reference/*}}.cc \
    tensorflow/compiler/mlir/lite/{core/api,schema}/*.cc |
    grep -v -E '_test|test_|testing|mock_|debug_log' |
    xargs -P "$(nproc)" -I{} sh -c 'arm-none-eabi-g++ '"$(echo $flags)"' -c {} -o '$objects'/$(echo {} | tr / _).o'
arm-none-eabi-ar rcs ../libtflm.a.part $objects/*.o
mv ../libtflm.a.part ../libtflm.a
