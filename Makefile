# `demo` and `test` are the README's; all make .venv on first use, and PYTHON chooses the interpreter for it.
PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip

.PHONY: demo test test-arm bench

demo: $(VENV)/installed
	$(VENV)/bin/dlmo optimize digits --service low --out runs/demo

# One thread for each process: trainings with more of them than there are cores stall each other.
test: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses=4 --dist=loadfile

# On emulated Arm processors; what must be installed for it is in docs/arm.md.
test-arm: $(VENV)/installed-test
	PYTHON=$(CURDIR)/$(VENV)/bin/python tests/package/arm_python.sh build/arm
	$(VENV)/bin/python -m pytest -m "arm or cortex_m" -rsP tests/package tests/measure/device

# Three of the comparisons in benchmarks/, each of which runs alone too.
bench: $(VENV)/installed
	$(VENV)/bin/python benchmarks/training.py
	$(VENV)/bin/python benchmarks/evaluation.py
	$(VENV)/bin/python benchmarks/predict.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install -q -c constraints.txt -e '.[mcu,npu,mlflow,tensorboard,cluster,remote]' 'moto[server]' pytest pytest-xdist ruff
	touch $@
