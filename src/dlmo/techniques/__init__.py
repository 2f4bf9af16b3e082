"""Techniques: each says what it changes in the network, the loss or the schedule of the one training loop."""
