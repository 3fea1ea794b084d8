PYTHON ?= python3
BIN := .venv/bin

# The environment is rebuilt when the requirements change.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0 -c constraints.txt
	$(BIN)/pip install --quiet -e ".[dev]" -c constraints.txt
	touch $@

.venv/docs-installed: .venv/installed
	$(BIN)/pip install --quiet -e ".[docs]" -c constraints.txt
	touch $@

.PHONY: demo test check integrations docs bench dist
demo: .venv/installed
	$(BIN)/minari-distill demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every codebase that a synset is exported to, each in an environment of its own below .venv/integrations.
integrations:
	PYTHON=$(PYTHON) tools/integrations.sh

# The site goes to site/; broken links, formulas that cannot be drawn and undocumented names end the build.
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Speed on this machine, as in docs/performance.md: an outer step, a teacher's step.
bench: .venv/installed
	$(BIN)/python -m benchmarks.engine_speed
	$(BIN)/python -m benchmarks.teacher_speed

# Wheel and sdist in dist/, checked, and used in an empty environment.
dist:
	PYTHON=$(PYTHON) tools/check_dist.sh
