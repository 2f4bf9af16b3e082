"""LiteRT (TensorFlow Lite): convert, quantize, encode zeros, run, and look inside .tflite files."""
