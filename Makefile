# make lab      copies of the notebooks in JupyterLab        make test    everything that proves the project
# make run      every notebook from scratch, measured        make figures (CHECK=1: only compare)
# make browser  two notebooks in JupyterLab in a real browser
# PYTHON=python3.12 chooses the interpreter; MODEL=... another model than the bundled one; LAB_ARGS=--no-browser;
# FOLDER=... where make lab works (FOLDER=notebooks: on the originals); COVER= tests without counting what they reach

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
FOLDER ?= my_notebooks
COVER  ?= --cov=ddim_tutorial --cov-report=term:skip-covered
SEED   ?= 0
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# the notebooks run in notebooks/: a folder, also one with spaces in its name, is passed on in full
MODEL  ?= $(DDIM_TUTORIAL_MODEL)
quoted := '$(subst ','\'',$(MODEL))'
ifneq ($(MODEL),)
export DDIM_TUTORIAL_MODEL := $(shell if [ -d $(quoted) ]; then cd -- $(quoted) && pwd; else printf %s $(quoted); fi)
endif

.PHONY: lab test browser run figures
.DELETE_ON_ERROR:

lab: $(READY)
	$(BIN)/python -m ddim_tutorial lab "$(FOLDER)" $(LAB_ARGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m pytest -n $(JOBS) --randomly-seed=$(SEED) --durations=10 $(COVER)

# needs Chromium (apt-get install chromium) and pip install -e '.[browser]'; skipped without them
browser: $(READY)
	$(BIN)/python -m pytest -m browser -rsP tests/test_browser.py

run: $(READY)
	$(BIN)/python -m tools.run_notebooks $(NOTEBOOKS)

figures: $(READY)
	$(BIN)/python -m tools.figures $(if $(CHECK),--check)

# The lock is for Python 3.11 and later; 3.10 gets the newest versions that pyproject.toml allows.
# On Linux pip's own torch carries CUDA: without an NVIDIA GPU the build for the CPU is tried first,
# from torch's index; where that cannot be reached, pip takes torch from where it takes the rest.
TORCH_CPU := https://download.pytorch.org/whl/cpu
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed: make PYTHON=...")'
	@echo "Setting up $(VENV), once: 2 to 6 minutes and 1.8 GB of disk; 5.5 GB on Linux if torch comes with CUDA."
	$(PYTHON) -m venv $(VENV)
	@if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		echo "No NVIDIA GPU is seen: torch's build for the CPU, from $(TORCH_CPU)"; \
		$(BIN)/python -m pip install --quiet --no-deps --timeout 15 --retries 1 \
			--index-url $(TORCH_CPU) "$$(grep "^torch==" requirements.lock)" || \
			echo "It cannot be had from there: going on with the torch that pip finds by itself, which may carry CUDA."; \
	fi
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(BIN)/python -m pip install -r requirements.lock && \
		$(BIN)/python -m pip install --no-deps --no-build-isolation -e .; \
	else \
		$(BIN)/python -m pip install -e '.[lab,train,test]'; \
	fi
	touch $(READY)
