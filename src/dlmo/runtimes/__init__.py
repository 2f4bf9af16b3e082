"""Runtimes: how a trained network becomes a file, and how that file is run.

Only `convert` needs torch; reading, running and measuring a file needs `ai-edge-litert` and numpy.
"""
