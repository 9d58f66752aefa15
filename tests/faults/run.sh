#!/bin/sh
# One row per fault: injected how, what the user sees, what was lost. `tests/faults/run.sh --quick`: those that CI runs.
# Needs root in a container for small disks (mount); PYTHON=... chooses the interpreter.
cd "$(dirname "$0")/../.." || exit 1
exec env PYTHONPATH="src:tests${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=1 "${PYTHON:-python}" tests/faults/drive.py "$@"
