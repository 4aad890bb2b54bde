"""docs/python.md and the notebook: what they tell a reader to run runs, from the first line to the last."""

import ast
import json
import re
from pathlib import Path

import pytest

from gtrturbo.stages import eval as eval_stage

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NOTEBOOK = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
# The notebook's own sizes take two minutes.
SIZES = re.compile(r"^EXPERT_EPISODES, .* = .*$", re.MULTILINE)
FEW = "EXPERT_EPISODES, STEPS, UPDATES, EPISODES, EVALUATED = 60, 100, 2, 6, 6"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(eval_stage, "CHANCE_EPISODES", 50)


def shown(cell: str, names: dict[str, object]) -> object:
    """Run a cell as a notebook does, and return what its last line is."""
    *first, last = ast.parse(cell).body
    value = isinstance(last, ast.Expr)
    exec(compile(ast.Module([*first, *([] if value else [last])], []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if value else None


def test_the_blocks_of_the_page_run_in_order(capsys):
    names: dict[str, object] = {}
    for block in BLOCK.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8")):
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "density must be in (0, 1], got 3" in printed and "runs/a/checkpoints/0001" in printed


def test_the_cells_of_the_notebook_run_in_order():
    assert len(SIZES.findall(CELLS[0])) == 1
    names: dict[str, object] = {}
    found = [shown(SIZES.sub(FEW, cell), names) for cell in CELLS]
    assert True in found  # Tensors in memory are merged as folders are.
    pictures = [value for value in found if hasattr(value, "save")]
    assert len(pictures) == 1 and pictures[0].width > 32  # type: ignore[attr-defined]
    assert set(names["checkpoints"][1].metrics) >= {"approx_kl", "kl_mean"}  # type: ignore[index]


def test_the_notebook_is_kept_without_outputs():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in NOTEBOOK["cells"] if "outputs" in cell)
