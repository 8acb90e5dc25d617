#!/usr/bin/env bash
# On a machine with CUDA: the GPU tests and the benchmarks of the kernels, or of networks and decoding; each in under
# nine minutes.
#
#     benchmarks/gpu.sh [FOLDER [kernels|networks]]      results and logs go to FOLDER (default: $OUT, else out/gpu)
#
# Needs python3 with torch >= 2.11 and Triton, and no network; what else is missing is printed as not run (networks: f2f's
# own dependencies, and onnxruntime-gpu and tensorrt where they are to be measured). A part that
# fails does not stop the next one; the exit status is 1 if any failed. F2F_COMMIT names the commit where the files came
# without their repository.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-${OUT:-out/gpu}}
what=${2:-kernels}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
failed=()
unset PYTHONSAFEPATH # the benchmarks import their neighbours

# part NAME SECONDS COMMAND...: run it with a time limit, its output in NAME.log, its end on the screen.
part() {
    local name=$1 seconds=$2 started=$SECONDS status=0
    shift 2
    echo "== $name: $*"
    timeout --kill-after=10 "$seconds" "$@" >"$out/$name.log" 2>&1 || status=$?
    tail -n 40 "$out/$name.log"
    echo "== $name: status $status after $((SECONDS - started)) s"
    if ((status != 0)); then failed+=("$name"); fi
}

# Make `f2f` importable: with the C++ extension if it can be built here, else from links to the folders.
install_f2f() {
    if timeout 120 "$python" -m pip install --quiet --no-deps --no-build-isolation --editable . >"$out/install.log" 2>&1 &&
        (cd / && "$python" -c "import f2f.kernels") >>"$out/install.log" 2>&1; then
        echo "== f2f installed, C++ included"
        return
    fi
    echo "== f2f cannot be installed here (install.log): imported from its folders, without C++"
    mkdir -p build/import/f2f
    for package in engine kernels training; do
        ln -sfn "../../../$package" "build/import/f2f/$package"
    done
    export PYTHONPATH="$PWD/build/import${PYTHONPATH:+:$PYTHONPATH}"
}

install_f2f
part machine 60 "$python" -c '
import sys, torch, triton
from f2f.kernels import backend_in_use
print(sys.version, "torch", torch.__version__, "triton", triton.__version__)
print(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), *torch.cuda.mem_get_info())
print(backend_in_use("cuda"))
'

# The tests share a conftest.py that needs the whole engine; those of the kernels do without it.
pytest=("$python" -m pytest)
if ! (cd tests && "$python" -c "import conftest") >"$out/conftest.log" 2>&1; then
    echo "== tests run without conftest.py: $(tail -n 1 "$out/conftest.log")"
    pytest+=(--noconftest)
fi
if ! "$python" -c "import pytest_timeout" 2>>"$out/conftest.log"; then
    pytest+=(-o "addopts=--import-mode=importlib -ra" -o filterwarnings=default)
fi

if [[ $what == networks ]]; then
    F2F_REQUIRE_CUDA=1 part tests 180 "${pytest[@]}" -q tests/test_runtimes_gpu.py tests/test_gpu_decode.py
    part decode 120 "$python" -u benchmarks/decode.py --seconds 6 --repeats 3
    part runtimes $((520 - SECONDS)) "$python" -u benchmarks/runtimes_gpu.py --no-compile --time-limit 150
    results=(benchmarks/results/decode.csv benchmarks/results/runtimes_cuda.csv)
else
    F2F_REQUIRE_CUDA=1 part tests 200 "${pytest[@]}" -q tests/test_kernels*.py
    # Headline cases first; none is started after the limit, so that what was measured is written.
    left=$((520 - SECONDS))
    part kernels "$left" "$python" -u benchmarks/kernels.py --device cuda \
        --case-seconds 3 --compile-seconds 45 --time-limit $((left - 75))
    part roofline 60 "$python" benchmarks/roofline.py --cuda
    results=(benchmarks/results/kernels_cuda.csv docs/kernels_cuda.png)
fi
for result in "${results[@]}"; do
    if [[ $result -nt $out/machine.log ]]; then cp "$result" "$out/"; else failed+=("$result"); fi # not an older one
done

if ((${#failed[@]} > 0)); then
    echo "failed: ${failed[*]}"
    exit 1
fi
echo "all passed: $out"
