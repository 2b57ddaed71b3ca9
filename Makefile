# make lab      the tutorial in JupyterLab                   make test    everything that proves the project
# make run      every notebook from scratch, measured        make figures (CHECK=1: only compare)
# PYTHON=python3.12 chooses the interpreter; MODEL=... another model than the bundled one; LAB_ARGS=--no-browser

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
SEED   ?= 0
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# the notebooks run in notebooks/: a folder is passed on in full
MODEL  ?= $(DDIM_TUTORIAL_MODEL)
ifneq ($(MODEL),)
export DDIM_TUTORIAL_MODEL := $(if $(wildcard $(MODEL)/.),$(abspath $(MODEL)),$(MODEL))
endif

.PHONY: lab test run figures
.DELETE_ON_ERROR:

lab: $(READY)
	$(BIN)/jupyter lab $(LAB_ARGS) notebooks/00_start_here.ipynb

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n $(JOBS) --randomly-seed=$(SEED) --durations=10

run: $(READY)
	$(BIN)/python -m ddim_tutorial.runner $(NOTEBOOKS)

figures: $(READY)
	$(BIN)/python -m ddim_tutorial.figures $(if $(CHECK),--check)

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
