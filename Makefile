# Every target sets up what it needs: a .venv beside this file, made anew only when its inputs changed.
PYTHON ?= python3
CXX ?= g++
BIN := .venv/bin
READY := .venv/.ready
CPP := $(wildcard csrc/*.cpp csrc/*.h)
CPP_TESTS := $(wildcard csrc/tests/*.cpp)
WHEEL := build/wheel-check
export PYTHONSAFEPATH = 1

.PHONY: demo test lint types format sanitize wheel-check bench-kernels bench-engine chaos long fuzz-videos fuzz-readers study \
	setup clean

demo: setup
	$(BIN)/f2f demo --out out/demo

# A file's tests stay in one process: they share fixtures. One that ends its process ends all, and is named: in another
# process pytest-xdist 3.8 would wait for ever. In order, one by one: .venv/bin/pytest.
test: setup
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP) $(CPP_TESTS)

types: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP) $(CPP_TESTS)

# The C++ kernels over stored cases, watched by the address and undefined-behaviour sanitizers.
sanitize: build/sanitized
	build/sanitized csrc/tests/cases/*.case

build/sanitized: $(CPP) $(CPP_TESTS)
	mkdir -p build
	$(CXX) -std=c++20 -O1 -g -Wall -Wextra -Werror -ffp-contract=off -fsanitize=address,undefined \
		-fno-sanitize-recover=all -pthread $(filter-out csrc/module.cpp,$(filter %.cpp,$^)) -o $@

# The wheel, alone in a new environment that only borrows the dependencies of ours.
wheel-check: setup
	rm -rf $(WHEEL) build/lib* build/bdist*
	$(BIN)/python -m build --wheel --outdir $(WHEEL) .
	$(PYTHON) -m venv $(WHEEL)/env
	$(WHEEL)/env/bin/python -m pip install --quiet --no-deps $(WHEEL)/*.whl
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > $(WHEEL)/dependencies.pth
	mv $(WHEEL)/dependencies.pth $$($(WHEEL)/env/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
	cd $(WHEEL) && env/bin/python $(CURDIR)/.ci/wheel_check.py
	cd $(WHEEL) && env/bin/f2f --help

# The kernels beside what people would use instead, the README's tables and the picture. BENCH=--quick: minutes.
bench-kernels: setup
	CXX=$(CXX) $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dis,bench]'
	PYTHONSAFEPATH= $(BIN)/python benchmarks/kernels.py $(BENCH)
	PYTHONSAFEPATH= $(BIN)/python benchmarks/tables.py
	PYTHONSAFEPATH= $(BIN)/python benchmarks/roofline.py

# Thousands of damaged videos through the decoding processes. FUZZ='--seed 2' damages others.
fuzz-videos: setup
	PYTHONSAFEPATH= $(BIN)/python benchmarks/fuzz_videos.py $(FUZZ)

# The engine beside a PyTorch script for the same job. ENGINE='--real FOLDER' adds real videos.
bench-engine: setup
	PYTHONSAFEPATH= $(BIN)/python benchmarks/engine.py $(ENGINE)
	PYTHONSAFEPATH= $(BIN)/python benchmarks/tables.py

# Runs that are killed again and again; what is there at the end must be what was to be. CHAOS='--kills 100' kills more often.
chaos: setup
	PYTHONSAFEPATH= $(BIN)/python benchmarks/chaos.py $(CHAOS)

# A 2-hour video, 100,000 rows, 10,000 videos: memory, starts, leaks.
long: setup
	PYTHONSAFEPATH= $(BIN)/python benchmarks/long.py $(LONG)

# Readers of manifests, tars and records under a coverage-guided fuzzer. READERS='--runs 1000000' takes longer.
fuzz-readers: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	PYTHONSAFEPATH= $(BIN)/python benchmarks/fuzz_readers.py $(READERS)

# What labelled videos are worth to a segmenter: many trainings, each a row of results; stopped, it goes on where it was.
# STUDY='--hours 2' ends it in time.
study: setup
	CXX=$(CXX) $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[cpu,export,train,dis,bench]'
	PYTHONSAFEPATH= OMP_NUM_THREADS=1 $(BIN)/python benchmarks/study.py $(STUDY)
	PYTHONSAFEPATH= $(BIN)/python benchmarks/tables.py

setup: $(READY)

$(READY): pyproject.toml setup.py constraints.txt $(CPP)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "f2f needs Python 3.11 or newer; '$(PYTHON)' is not: install it, or run make PYTHON=/path/to/python3.11"; exit 1; }
	@command -v $(CXX) >/dev/null || \
		{ echo "f2f needs a C++ compiler; '$(CXX)' is not there: install g++, or run make CXX=/path/to/compiler"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	CXX=$(CXX) $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[cpu,export,train,dis,test]'
	mkdir -p .typecheck/f2f
	for package in engine kernels training; do ln -sfn ../../$$package .typecheck/f2f/$$package; done
	touch $@

clean:
	rm -rf .venv .typecheck build out *.egg-info kernels/*.so
