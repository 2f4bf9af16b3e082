"""The deployable folder: what lies in it, how it is written, and predicting from it."""
