# Requires Python 3.11 or newer and make.
#
#   make run     install into .venv and start the demo: a gateway, an echo upstream, accounts to try
#   make test    the whole test suite
#   make lint    formatting, lint rules, types, import rules, complete lock files, prose
#   make native  compile the hot path in place, for more speed: some minutes, requires a C compiler
#   make interpreted  remove the compiled modules, so that the source runs again
#   make test-native  compile a copy in build/native-test and run the tests of the hot path on it
#   make docs    generate config/schema.json, docs/configuration.md, docs/conformance.md and parts of docs/api
#   make site    build the documentation as a site in build/site, and fail for a broken link
#   make fuzz    an hour of each fuzzer (FUZZ_SECONDS=600 for ten minutes, FUZZ_SEED=7 for the cases of that seed)
#   make soak    an hour of mixed traffic on one worker, drawn into build/soak (SOAK_SECONDS=600 for ten minutes)
#   make bench   the benchmark against other proxies (bench-quick: a short run; bench-accounts: the account service)
#
# Another interpreter: make clean run PYTHON=python3.12 (an existing .venv keeps its interpreter)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check
# The lock files contain the hash of every archive, so pip installs only reviewed files. --no-deps, because pip 22.3 to
# 23.2 resolve a requirement with an extra to the newest release on the index and ignore the pin; `make lint` checks
# that the locks are complete. Build isolation is off, because it fetches an unpinned build tool.
INSTALL := $(PIP) install --require-hashes --no-deps
PACKAGE := $(PIP) install --no-deps --no-build-isolation --editable .
LOCKS   := requirements.lock requirements-build.lock requirements-dev.lock requirements-autobahn.lock
SUITE   ?= -q -n auto --dist loadfile
# The tests that run on the native build: the folders of the hot path.
NATIVE_TESTS ?= tests/wire tests/policy tests/gate tests/identity tests/proxy tests/server tests/websocket \
	tests/advisories tests/bench/test_native_budget.py

.PHONY: help run test test-native native-copy native interpreted docs site fuzz soak lint format lock bench bench-quick bench-accounts clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^#   make/s/^#   /  /p' Makefile

run: $(VENV)/.installed-to-run
	@exec $(BIN)/gateway demo

# Some tests pass stand-ins, which compiled modules reject.
test: $(VENV)/.installed-to-test
	@$(BIN)/gateway --version | grep -qF "(interpreted)" || \
	  { echo "make: the checkout is compiled, and the suite tests the source: make interpreted, or make test-native" >&2; exit 2; }
	$(BIN)/python -m pytest $(SUITE)

# Tests need no fast code, and the C compiler takes a quarter of the time without optimisation.
native-copy test-native: export GATEWAY_NATIVE_OPTIMIZE ?= 0
native-copy: $(VENV)/.installed-to-test
	$(BIN)/python hatch_build.py --copy build/native-test

test-native: export PYTHONPATH = $(CURDIR)/build/native-test
test-native: native-copy
	cd build/native-test && $(abspath $(BIN))/python -m gateway --version | grep -F "(native)"
	cd build/native-test && $(abspath $(BIN))/python -m pytest $(SUITE) $(NATIVE_TESTS)

native: $(VENV)/.installed-to-run
	$(BIN)/python hatch_build.py
	@$(BIN)/gateway --version

interpreted: $(VENV)/.installed-to-run
	$(BIN)/python hatch_build.py --remove
	@$(BIN)/gateway --version

docs: $(VENV)/.installed-to-test
	$(BIN)/python -m gateway.settings.schema > config/schema.json
	$(BIN)/python -m gateway.settings.documentation > docs/configuration.md
	$(BIN)/python -m tests.proxy.conformance.listing > docs/conformance.md
	$(BIN)/python -m tests.docs.sign_in_api

site: $(VENV)/.installed-to-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

fuzz: export FUZZ_SECONDS ?= 3600
fuzz: export FUZZ_SEED ?= $(shell date +%s)
fuzz: $(VENV)/.installed-to-test
	$(BIN)/python -m pytest -q -s tests/fuzz

soak: export SOAK_SECONDS ?= 3600
soak: export SOAK_PACE ?= 0.05
soak: $(VENV)/.installed-to-bench
	$(BIN)/python -m pytest -q -s tests/soak

lint: $(VENV)/.installed-to-test
	$(BIN)/ruff format --check gateway tests bench hatch_build.py mkdocs_hooks.py
	$(BIN)/ruff check gateway tests bench hatch_build.py mkdocs_hooks.py
	$(BIN)/mypy
	$(BIN)/python -m tests.installation.lock_files $(LOCKS)
	$(BIN)/lint-imports
	$(BIN)/python -m tests.repository.prose

format: $(VENV)/.installed-to-test
	$(BIN)/ruff format gateway tests bench hatch_build.py mkdocs_hooks.py
	$(BIN)/ruff check --fix gateway tests bench hatch_build.py mkdocs_hooks.py

bench: $(VENV)/.installed-to-bench
	$(BIN)/python -m bench

bench-quick: $(VENV)/.installed-to-bench
	$(BIN)/python -m bench --quick

bench-accounts: $(VENV)/.installed-to-test
	$(BIN)/python -m bench.accounts

$(VENV)/.installed-to-run: $(VENV)/.created requirements.lock requirements-build.lock pyproject.toml
	@echo "Installing the gateway into $(VENV) (about half a minute) …"
	@$(INSTALL) -r requirements.lock -r requirements-build.lock
	@$(PACKAGE)
	@touch $@

# The releases of pip with which the installation tests run.
PIPS := tests/installation/oldest-pip.lock tests/installation/newest-pip.lock

$(VENV)/.installed-to-test: $(VENV)/.installed-to-run requirements-dev.lock requirements-autobahn.lock $(PIPS)
	@echo "Installing the test tools into $(VENV) …"
	@$(INSTALL) -r requirements-dev.lock
	@$(INSTALL) --no-build-isolation -r requirements-autobahn.lock
	@for lock in $(PIPS); do $(PIP) download --require-hashes --no-deps --dest $(VENV)/pips -r $$lock || exit; done
	@touch $@

$(VENV)/.installed-to-bench: $(VENV)/.installed-to-test requirements-bench.lock
	@echo "Installing the benchmark's peers into $(VENV) …"
	@$(INSTALL) -r requirements-bench.lock
	@$(BIN)/python -m tests.installation.lock_files requirements-bench.lock
	@touch $@

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || \
	  { echo "make: '$(PYTHON)' not found; install Python 3.11 or newer, or select one: make run PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is $$("$(PYTHON)" -c 'import platform; print(platform.python_version())');" \
	    "the gateway requires Python 3.11 or newer; select one: make run PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "make: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv" >&2; exit 2; }
	@"$(PYTHON)" -m venv "$(VENV)"
	@touch $@

# Adds new requirements of pyproject.toml to the lock files, for every supported Python and platform. Existing pins
# change only if necessary; `make lock UPGRADE=--upgrade` updates all of them. The environment of the tests has the
# releases of all locks, so the build takes those of the tests. The dependencies of the Autobahn
# Testsuite require Python 2 and are excluded: the tests only read its cases.
RESOLVE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $(UPGRADE)
lock: $(VENV)/.installed-to-test
	$(RESOLVE) pyproject.toml --output-file requirements.lock
	$(RESOLVE) pyproject.toml --extra tracing --group test --group lint --group docs --constraints requirements.lock --output-file requirements-dev.lock
	printf 'hatchling\neditables\nsetuptools\nmypy\ntypes-pyyaml\n' | $(RESOLVE) --constraints requirements-dev.lock --output-file requirements-build.lock -
	printf 'autobahntestsuite\n' | $(RESOLVE) --no-deps --output-file requirements-autobahn.lock -
	$(RESOLVE) pyproject.toml --extra tracing --group test --group bench --constraints requirements-dev.lock --output-file requirements-bench.lock

clean:
	rm -rf $(VENV) build dist gateway__mypyc.* htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find gateway -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
