# Everything goes through `.venv`, which the first command makes. `make` alone explains.
.DEFAULT_GOAL := help
.PHONY: help demo test drills lint results bench up down models tables env lock clean
.DELETE_ON_ERROR:

PYTHON ?= python3.11
CONF ?= conf/simulated.yaml
DATA ?=
BENCH ?= loader
BIN := .venv/bin
STATE := $(or $(MOVELINE_HOME),var)
RECIPE := --conf $(CONF) $(if $(DATA),--data $(DATA))
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
export PYTHON

help:  ## this page
	@echo "moveline: from raw behaviour logs to a registered recommender model, every day."
	@echo "Needs Python 3.11 and Java 17 or 21; the first command installs the rest into .venv."
	@echo
	@sed -n 's/^\([a-z]*\): .*##\(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done
	@echo
	@echo "On a log of your own:  make demo CONF=conf/yours.yaml DATA=folder/of/its/files"
	@echo "Single steps:          .venv/bin/moveline --help"

demo: env  ## simulate a log, run both graphs under a real Airflow, show the registered model, stop
	@$(BIN)/moveline demo $(RECIPE)

test: env  ## every test but the drills: Spark, TorchRec, Petastorm, MLflow, a real Airflow scheduler
	@$(PYTEST) -m "not drill"

drills: env  ## what happens when a job is killed, data comes late, two write at once, or executors are processes of their own
	@$(PYTEST) -m drill tests

lint: env  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/mypy

results: env  ## the tables of docs/results/din.md, on the recipe CONF, from tables that are built
	@PYTHONPATH=. $(BIN)/python benchmarks/results_din.py --conf $(CONF)

bench: env  ## a benchmark beside its rivals: BENCH=loader, moveline_build, pairs, gauc, daily_cost, skew, train, ranks or big
	@PYTHONPATH=. $(BIN)/python benchmarks/$(BENCH).py

up: env  ## start Airflow and MLflow (127.0.0.1) and print their addresses
	@$(BIN)/moveline up $(RECIPE)

down: env  ## stop them, and everything they started
	@$(BIN)/moveline down

tables: env  ## what was built: days, rows, rejects, versions
	@$(BIN)/moveline tables --conf $(CONF)

models: env  ## the registered model versions
	@$(BIN)/moveline models

env:  ## check Python and Java, and install .venv from requirements.lock when it changed
	@sh .ci/preflight.sh
	@sh .ci/install.sh

lock: env  ## resolve requirements.lock again from pyproject.toml
	@UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" $(BIN)/python -m uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links --extra dev -o requirements.lock pyproject.toml

clean: down  ## delete the state folder's caches and logs; tables and models stay
	@rm -rf "$(STATE)/cache" "$(STATE)/logs" "$(STATE)/airflow/logs"
