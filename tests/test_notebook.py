"""The notebook runs from its first cell to its last one."""

import ast
import json
import pathlib

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "tour.ipynb"
SHORT = {  # an argument of the training -> those of a shorter one of a smaller network
    "--config.pretrain.steps=1500": (
        "--config.pretrain.steps=100",
        "--config.pretrain.warmup_steps=10",
        "--config.model.width=32",
    ),
    "--config.finetune.steps=100": (
        "--config.finetune.steps=20",
        "--config.finetune.embedding_rank=16",
    ),
    "--config.readouts.layers.steps=25": ("--config.readouts.layers.steps=5",),
}


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shortened(code: str) -> str:
    for argument, others in SHORT.items():
        code = code.replace(f'"{argument}"', ", ".join(f'"{other}"' for other in others))
    return code


def run_cell(code: str, names: dict) -> object:
    """Runs a cell as a notebook does; returns what it shows below it."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_every_cell_of_the_tour_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells, names = code_cells(), {}
    assert all(sum(argument in cell for cell in cells) == 1 for argument in SHORT)
    shown = [run_cell(shortened(code), names) for code in cells]
    drawings = [each._repr_svg_() for each in shown if hasattr(each, "_repr_svg_")]
    assert len(drawings) == 3
    assert all(drawing.startswith("<svg") for drawing in drawings)
    assert names["person"].facts["major"] in capsys.readouterr().out
    assert len(names["weights"]) == 2 * 4 * len(names["tokens"])
    assert [point["patch"] for point in names["points"]] == [
        "none", "embedding", "block_0", "block_1"
    ]  # fmt: skip
    assert all(0 <= point["probability"] <= 1 for point in names["points"])
