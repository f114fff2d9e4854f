# Each target does all of its set-up, in a virtual environment of its own; only Python >= 3.11 is needed beforehand.
PYTHON ?= python3
VENV ?= .venv
INSTALLED = $(VENV)/.installed

# For `make bench`: a checkout of the code published with the paper, and where MNIST/raw lies (by default where byzray
# looks for data sets); without the first, nothing is compared with it.
PUBLISHED ?=
DATA ?=
PEERS = build/peers
RESULTS = docs/benchmarks
WITH_DATA = $(if $(DATA),--data $(DATA))
WITH_PUBLISHED = $(if $(PUBLISHED),--published $(PUBLISHED))

.PHONY: demo serve test check site reference reproduction notebook lock chaos bench gpu clean

demo: $(INSTALLED)
	$(VENV)/bin/byzray sweep demo

# The service, on this machine alone, until Ctrl-C: docs/service.md.
serve: $(INSTALLED)
	$(VENV)/bin/byzray serve

# Two processes: one waits for Ray most of the time.
test: check site
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup

check: $(INSTALLED)
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

# Strict: a link or an anchor that leads nowhere fails it.
site: $(INSTALLED)
	rm -rf build/site
	$(VENV)/bin/zensical build --clean --strict
	$(VENV)/bin/python docs/reference/search.py build/site/search.json

# The pages of the site that follow from the code; tests/test_docs.py fails if they do not.
reference: $(INSTALLED)
	$(VENV)/bin/python docs/reference/generate.py

# The tables and the figure of docs/reproduction.md, from docs/reproduction.parquet.
reproduction: $(INSTALLED)
	$(VENV)/bin/python docs/reference/reproduction.py

# The page of the tutorial, with what its notebook prints and draws.
notebook: $(INSTALLED)
	$(VENV)/bin/python docs/reference/notebook.py

# The versions in the Docker image: the newest of each package that go together. Run the tests with them.
lock:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet uv==0.13.9
	build/uv/bin/uv pip compile pyproject.toml --extra optuna --universal --python-version 3.11 --upgrade --no-annotate \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --quiet --output-file docker/lock.txt

# Takes an hour or more: runs that lose processes, a soak, the tests that are too long for every day, and hostile input.
chaos: $(INSTALLED)
	$(VENV)/bin/python tests/chaos/kills.py
	$(VENV)/bin/python tests/chaos/soak.py
	BYZRAY_CHAOS=1 $(VENV)/bin/python -m pytest -m chaos tests
	BYZRAY_CHAOS=1 $(VENV)/bin/python -m pytest tests/fuzz tests/byzray/test_hostile_rows.py

bench: $(INSTALLED) $(PEERS)/.installed
	mkdir -p $(RESULTS)
	$(VENV)/bin/python benchmarks/steps.py $(WITH_PUBLISHED) --peers $(PEERS) $(WITH_DATA) --json $(RESULTS)/steps.json
	$(VENV)/bin/python benchmarks/rules.py $(WITH_PUBLISHED) --peers $(PEERS) --json $(RESULTS)/rules.json
	$(VENV)/bin/python benchmarks/actor_steps.py $(WITH_DATA) --json $(RESULTS)/actors.json
	$(VENV)/bin/python benchmarks/sweep_overhead.py --runs 10 --dataset mnist --steps 300 $(WITH_DATA) --json $(RESULTS)/sweeps.json
	$(VENV)/bin/python benchmarks/growth.py $(WITH_DATA) --json $(RESULTS)/growth.json
	$(VENV)/bin/python benchmarks/growth_figure.py $(RESULTS)/growth.json
	$(VENV)/bin/python benchmarks/page.py --results $(RESULTS)

gpu: $(INSTALLED)
	mkdir -p $(RESULTS)
	$(VENV)/bin/python benchmarks/gpu.py $(WITH_PUBLISHED) $(WITH_DATA) --json $(RESULTS)/gpu.json

# Without what they depend on: one asks for an older PyTorch, one for a newer Python than it needs.
$(PEERS)/.installed: $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target $(PEERS) byzfl byzpy seaborn
	$(VENV)/bin/python -m pip install --quiet --no-deps --ignore-requires-python --upgrade --target $(PEERS) krum
	touch $@

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "byzray needs Python 3.11 or newer, $(PYTHON) is older")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache build/site
