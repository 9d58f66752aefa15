"""Write src/reverie/fast/proven.json, the fingerprints of the plain functions that the fast path was proven against.

python -m tests.fast.prove            the equality tests first, then the fingerprints (`make prove`)
python -m tests.fast.prove --check    nothing is written; exit code 1 if a function is another one
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from reverie.fast.definitions import PARTS, fingerprint, resolve

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "src" / "reverie" / "fast" / "proven.json"


def fingerprints() -> dict[str, str]:
    """Those of now."""
    return {place: fingerprint(resolve(place)) for part in PARTS.values() for place in part.functions}


def main() -> int:
    """-> exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    now, known = fingerprints(), json.loads(FILE.read_text()) if FILE.exists() else {}
    other = sorted(place for place in now.keys() | known.keys() if now.get(place) != known.get(place))
    print("\n".join(f"changed   {place}" for place in other) or "all functions are the proven ones")
    if args.check or not other:
        return bool(other)
    FILE.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")  # else nothing would be computed fast
    tests = [str(ROOT / "tests" / "fast" / name) for name in ("test_fast.py", "test_fused.py", "test_definitions.py")]
    code = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *tests], cwd=ROOT, check=False).returncode
    if code:
        FILE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print("the fast path does not equal the plain one: adapt src/reverie/fast; fingerprints are as before")
    return code


if __name__ == "__main__":
    sys.exit(main())
