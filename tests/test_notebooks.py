"""The notebooks run from an empty folder, with small budgets; no output is committed."""

import json
import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need: pip install nbclient ipykernel")
nbclient = pytest.importorskip("nbclient", reason="notebooks need: pip install nbclient ipykernel")
pytest.importorskip("ipykernel", reason="notebooks need: pip install nbclient ipykernel")

ROOT = Path(__file__).parents[1]
#: What makes a notebook shorter, besides the variables of the environment: text -> text. Every one must be found.
SHORTER = {
    "own-environment-from-scratch": {'run="runs/cart")': 'run="runs/cart", pretrain=5)', "env_steps=STEPS": "150"}
}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path, monkeypatch):
    """With 400 steps instead of thousands: what is learnt does not matter here, that it runs to the end does."""
    monkeypatch.setenv("STEPS", "400")
    monkeypatch.setenv("PRESET", "demo+debug")
    monkeypatch.setenv("UPDATES", "5")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    text = path.read_text(encoding="utf-8")
    for old, new in SHORTER.get(path.stem, {}).items():
        old, new = (json.dumps(part)[1:-1] for part in (old, new))
        assert text.count(old) == 1
        text = text.replace(old, new)
    notebook = nbformat.reads(text, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = sum("image/png" in output.get("data", {}) for output in shown)
    printed = "".join(output.get("text", "") for output in shown)
    assert pictures >= 1, printed[-2000:]
    assert "Traceback" not in printed, printed[-2000:]
    assert "error:" not in printed, printed[-2000:]  # of a command in a cell


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_committed_and_the_first_cell_installs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code] == [[]] * len(code)
    assert "%pip install" in "".join(code[0]["source"])
