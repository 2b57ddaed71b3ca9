# make lab      the tutorial in JupyterLab                   make test    everything that proves the project
# make run      every notebook from scratch, measured        make figures (CHECK=1: only compare)
# PYTHON=python3.12 chooses the interpreter; MODEL=... another model than the bundled one; LAB_ARGS=--no-browser

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# the notebooks run in notebooks/: a folder, also one with spaces in its name, is passed on in full
MODEL  ?= $(DDIM_TUTORIAL_MODEL)
quoted := '$(subst ','\'',$(MODEL))'
ifneq ($(MODEL),)
export DDIM_TUTORIAL_MODEL := $(shell if [ -d $(quoted) ]; then cd -- $(quoted) && pwd; else printf %s $(quoted); fi)
endif

.PHONY: lab test run figures
.DELETE_ON_ERROR:

lab: $(READY)
	$(BIN)/jupyter lab $(LAB_ARGS) notebooks/00_start_here.ipynb

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n $(JOBS) --durations=10

run: $(READY)
	$(BIN)/python -m tools.run_notebooks $(NOTEBOOKS)

figures: $(READY)
	$(BIN)/python -m tools.figures $(if $(CHECK),--check)

# The lock is for Python 3.11 and later; 3.10 gets the newest versions that pyproject.toml allows.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(BIN)/python -m pip install -r requirements.lock && \
		$(BIN)/python -m pip install --no-deps --no-build-isolation -e .; \
	else \
		$(BIN)/python -m pip install -e '.[lab,train,test]'; \
	fi
	touch $(READY)
