"""Measuring: accuracy with its interval, paired comparisons, size, latency, memory. Needs no torch."""
