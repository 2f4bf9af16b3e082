"""Vela: Arm's compiler for Ethos-U neural processors, and the estimates it makes while compiling."""
