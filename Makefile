# The front door: each target prepares what it needs and calls tools/, cargo or pytest.
#
#   make demo                      build, install into .venv, run the tour
#   make test                      everything that must hold
#   make test PYTHON=python3.12    with another interpreter
#   make test STAGES="tidy clippy" a part of it

PYTHON ?= python3
VENV ?= .venv
STAGES ?=

.PHONY: help demo build test test-pythons stages docs bench format clean

help:
	@echo "make demo          build, install into $(VENV), run examples/tour.py"
	@echo "make test          run everything that must hold; STAGES=\"...\" runs a part, 'make stages' lists them"
	@echo "make test-pythons  run the Python tests on every CPython >= 3.10 found here; OTHERS=1: but \$$(PYTHON)"
	@echo "make build         build and install into $(VENV) only"
	@echo "make docs          build the documentation site into target/site"
	@echo "make bench         run our benchmarks"
	@echo "make format        format Rust and Python"
	@echo "make clean         remove environments and build results"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter, VENV=path the environment."

demo:
	@sh tools/doctor.sh "$(PYTHON)" demo
	@"$(PYTHON)" tools/environment.py --venv "$(VENV)" demo
	@"$(VENV)/bin/python" examples/tour.py

build:
	@sh tools/doctor.sh "$(PYTHON)" demo
	@"$(PYTHON)" tools/environment.py --venv "$(VENV)" demo

test:
	@sh tools/doctor.sh "$(PYTHON)" test
	@"$(PYTHON)" tools/check.py --venv "$(VENV)" $(STAGES)

stages:
	@"$(PYTHON)" tools/check.py --list

test-pythons:
	@sh tools/doctor.sh "$(PYTHON)" test
	@"$(PYTHON)" tools/check_pythons.py $(if $(OTHERS),--others)

docs:
	@sh tools/doctor.sh "$(PYTHON)" test
	@"$(PYTHON)" tools/check.py --venv "$(VENV)" site

bench: build
	@"$(VENV)/bin/python" -m benches.ours

format:
	@cargo fmt --all
	@"$(VENV)/bin/ruff" format .
	@"$(VENV)/bin/ruff" check --fix .

clean:
	rm -rf "$(VENV)" .venvs target
