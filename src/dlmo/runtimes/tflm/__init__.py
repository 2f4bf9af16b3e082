"""TensorFlow Lite Micro: the interpreter of microcontrollers, run on this machine by its own Python wheel."""
