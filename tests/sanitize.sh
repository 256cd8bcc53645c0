#!/usr/bin/env bash
# The tests of the kernels under AddressSanitizer and UBSan, with gcc. They run in a copy of the sources, which leaves the
# build in place alone. Arguments go to pytest: tests/sanitize.sh -k bank
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z | xargs -0 cp --parents -t "$work"
cd "$work"
CURBENCH_CUDA=0 CURBENCH_SANITIZE=address,undefined python setup.py -q build_ext --inplace

# The interpreter was not built with them, so they must be there before it; libstdc++ too, whose exceptions they watch.
# What Python and torch never free is not ours.
checked() {
    LD_PRELOAD="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libstdc++.so)" \
        ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH=$work "$@"
}
overrun='import numpy as np; from curbench.kernels.extension import load; load().read_words(np.zeros(32), 64)'
if checked python -c "$overrun" 2>/dev/null; then
    echo "the sanitizers do not see a read past the end of an array" >&2
    exit 1
fi
checked python -m pytest tests/kernels --ignore tests/kernels/test_build.py "$@"
