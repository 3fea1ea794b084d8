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

.PHONY: demo test check docs
demo: .venv/installed
	$(BIN)/minari-distill demo

test: .venv/installed
	$(BIN)/python -m pytest -n 2

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site goes to site/; broken links, formulas that cannot be drawn and undocumented names end the build.
docs: .venv/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
