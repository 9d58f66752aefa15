"""Make the golden fixtures, or check that they are what this reference makes.

    python -m tests.reference.generate            writes src/reverie/golden/*.safetensors
    python -m tests.reference.generate --check    compares; exit code 1 and the names of those that differ

Equal means to 1e-12: sums in another order, on another processor, may differ in the last bits.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from . import agents, cases_behaviour, cases_ensemble, cases_hierarchy, cases_model

GOLDEN = Path(__file__).parents[2] / "src" / "reverie" / "golden"
TOLERANCE = 1e-12
FILES = {
    "model": cases_model,
    "behaviour": cases_behaviour,
    "agents": agents,
    "ensemble": cases_ensemble,
    "hierarchy": cases_hierarchy,
}


def make():
    """{file: {fixture: (options, arrays)}}, always the same."""
    return {file: dict(module.cases()) for file, module in FILES.items()}


def write(folder, fixtures):
    """One safetensors file per group; settings as JSON in its header."""
    folder.mkdir(exist_ok=True)
    for file, group in fixtures.items():
        arrays = {
            f"{name}:{key}": np.asarray(x, order="C") for name, (_, named) in group.items() for key, x in named.items()
        }
        options = json.dumps({name: options for name, (options, _) in group.items()}, sort_keys=True)
        save_file(arrays, folder / f"{file}.safetensors", metadata={"options": options})


def read(folder):
    """What `write` wrote."""
    fixtures = {}
    for file in FILES:
        with safe_open(folder / f"{file}.safetensors", "numpy") as stored:
            group = {name: (options, {}) for name, options in json.loads(stored.metadata()["options"]).items()}
            for full in stored.keys():  # noqa: SIM118
                name, key = full.split(":")
                group[name][1][key] = stored.get_tensor(full)
        fixtures[file] = group
    return fixtures


def differences(stored, made):
    """Names of fixtures, or of arrays in them, that are not the same."""
    found = []
    for file in FILES:
        for name in sorted({*stored[file], *made[file]}):
            if name not in stored[file] or name not in made[file]:
                found.append(name)
                continue
            (old_options, old), (options, new) = stored[file][name], made[file][name]
            if old_options != json.loads(json.dumps(options)) or set(old) != set(new):
                found.append(name)
            found += [f"{name} {key}" for key in sorted({*old} & {*new}) if not same(old[key], new[key])]
    return found


def same(a, b):
    """Same shape, and the same numbers to 1e-12 of the largest one (NaN equals NaN)."""
    if a.shape != b.shape:
        return False
    largest = np.nanmax(np.abs(b), initial=1.0)
    return np.allclose(a, b, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare with what is there")
    made = make() if (args := parser.parse_args(argv)) else {}
    count = sum(map(len, made.values()))
    if not args.check:
        write(GOLDEN, made)
        size = sum(path.stat().st_size for path in GOLDEN.glob("*.safetensors"))
        print(f"{count} fixtures written to {GOLDEN}, {size / 1000:.0f} kB")
        return 0
    found = differences(read(GOLDEN), made)
    print("\n".join(f"differs: {name}" for name in found) or f"{count} fixtures are what the reference makes")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
