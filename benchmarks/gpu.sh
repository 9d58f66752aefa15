#!/usr/bin/env bash
# Everything that waits for a GPU, in under 9.5 minutes, what matters most first: its tests (90 s), updates at 16x64 (60),
# a profile of one replay (60), 50x50 (40), three A/Bs (60), a compiled step (120), packed seeds (60), Pong (60), the rest.
#
#     benchmarks/gpu.sh [OUT]          on the GPU; writes OUT/gpu.json (default benchmarks/results)
#     benchmarks/gpu.sh --small [OUT]  the same in small on the CPU, to try the script: 3 minutes
#
# On a bare machine: `benchmarks/gpu.sh --wheels` here first (downloads what pip would, 40 MB), then carry `.wheels`.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --wheels ]; then
    python3 -m pip wheel -q --no-deps -w .wheels crafter==1.8.3  # pure Python, published as source only
    exec python3 -m pip download -q -d .wheels --python-version 3.12 --platform manylinux2014_x86_64 \
        --platform manylinux_2_28_x86_64 --only-binary :all: --no-deps -r benchmarks/gpu.txt
fi
small=; [ "${1:-}" = --small ] && { small=--small; shift; }
if [ -d .wheels ] && ! python3 -c 'import gymnasium, minigrid, ale_py' 2>/dev/null; then
    python3 -m pip install -q --no-index --no-deps .wheels/*.whl
fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec python3 benchmarks/gpu.py $small --out "${1:-benchmarks/results}/gpu.json"
