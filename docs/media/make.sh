#!/bin/sh
# The images of the documents, from real runs:
#
#     reverie train --preset demo --env-steps 20000 --run runs/demo20
#     reverie train --preset demo --env-steps 4000 --run runs/sick kl_scale=1000
#     docs/media/make.sh runs/demo20 runs/sick
#
# Needs Chromium and the package playwright for the two pages.
set -eu
here=$(dirname "$0")
python -m reverie.cli dream "$1" -o "$here/dream.gif" --context 3 --horizon 8 --starts 5 --samples 1 --seed "${SEED:-2}" --fps 2
SEED=13 python "$here/watch.py" "$1" "$2"
