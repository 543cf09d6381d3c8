# make demo: the whole loop on the simulated robot.   make test: every check.
# Both make what they need first; `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
PACKAGES := src/fog_world_model src/fog_policy src/fog_bringup
SETUP := $(PYTHON) requirements/set_up.py --venv $(VENV) $(if $(WITHOUT_GL),--without-gl)
RUN := $(VENV)/bin/python -m

.PHONY: help setup demo test lint format build lerobot-check clean

help:
	@echo 'make setup    make or update $(VENV) with the fog command (PYTHON=python3.11 to choose)'
	@echo 'make demo     record, learn and drive on the simulated robot; report in runs/demo'
	@echo 'make test     checks of style and types, then all tests'
	@echo 'make lint     checks of style and types only'
	@echo 'make format   put the sources into the style that lint asks for'
	@echo 'make build    colcon build and colcon test into build/, install/ and log/'
	@echo 'make lerobot-check   have the lerobot package read an export (installs it into .venv.lerobot)'
	@echo 'make clean    remove build/, install/, log/ and caches (not $(VENV), not runs/)'

setup:
	@$(SETUP)

demo: setup
	$(VENV)/bin/fog demo

test: lint
	$(RUN) pytest

lint: setup
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

format: setup
	$(RUN) ruff check --fix
	$(RUN) ruff format

build: setup
	$(VENV)/bin/colcon build
	$(VENV)/bin/colcon test --event-handlers console_cohesion+ --return-code-on-test-failure

lerobot-check: setup
	$(VENV)/bin/python tests/lerobot_check.py

clean:
	rm -rf build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf $(PACKAGES:%=%/build) src/*/*.egg-info
	find src tests requirements -name __pycache__ -type d -prune -exec rm -rf {} +
