"""The results and the page of a sweep are functions of its rows and stages."""

import json
import pathlib
import platform

import jax

from kstore_jax.cli import main as cli
from kstore_jax.report import page as report
from kstore_jax.train import provenance
from tests.sweep.sweeps import contents, rows, sweep_again


def test_a_finished_sweep_run_again_elsewhere_keeps_its_page(copied, config_file, monkeypatch):
    files = [copied / "results.json", copied / "report.html", *copied.glob("figures/*.png")]
    before = contents(copied)
    mine = platform.platform()
    monkeypatch.setattr(platform, "platform", lambda: "another host")
    monkeypatch.setattr(provenance, "_git", lambda *_: "0123abc")
    monkeypatch.setattr(jax, "devices", lambda *_: jax.local_devices() * 3)
    monkeypatch.setenv("XLA_ANOTHER", "1")
    assert sweep_again(config_file, copied) == 0
    after = contents(copied)
    assert len(files) > 5
    assert [str(path) for path in files if after[str(path)] != before[str(path)]] == []
    for path in copied.glob("stages/qa-*/provenance-1.json"):
        recorded = json.loads(path.read_text())
        path.write_text(json.dumps({**recorded, "platform": "a machine of the stages"}))
    assert sweep_again(config_file, copied) == 0
    page = files[1].read_text()
    assert "a machine of the stages, Python" in page
    assert f"{mine}, Python" in page
    assert "another host" not in page


def test_a_page_older_than_its_results_is_written_again(copied, config_file, monkeypatch):
    for path in copied.glob("stages/qa-*/provenance-1.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "platform": "elsewhere"}))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(report, "write", killed)
        assert sweep_again(config_file, copied) == 130
    assert sweep_again(config_file, copied) == 0
    assert "elsewhere, Python" in (copied / "report.html").read_text()


def test_a_row_names_the_code_of_every_attempt_at_its_stages(copied, finished, config_file):
    def codes(workdir):
        results = json.loads((workdir / "results.json").read_text())["rows"]
        return {tuple(row["code"]) for row in results}

    (mine,) = codes(finished)
    assert len(mine) == 1
    for folder in copied.glob("stages/qa-*"):
        recorded = json.loads((folder / "provenance-1.json").read_text())
        older = {**recorded, "git": "0123abc", "git_dirty": True}
        (folder / "provenance-1.json").write_text(json.dumps(older))
        (folder / "result.json").unlink()
    assert sweep_again(config_file, copied) == 0
    for folder in copied.glob("stages/qa-*"):
        attempts = sorted(path.name for path in folder.glob("provenance*"))
        assert attempts == ["provenance-1.json", "provenance-2.json"]
    assert codes(copied) == {tuple(sorted(("0123abc-dirty", *mine)))}


def test_a_row_added_to_a_finished_sweep_computes_only_its_own_stages(
    copied, config_file, tmp_path, capsys
):
    longer = tmp_path / "longer.py"
    added = 'row("short", readouts__q_probe__steps=4, data__variant="single")'
    sweep_line = 'config.sweep = product(data__variant=["single", "multi2+permute"])'
    text = config_file.read_text()
    assert sweep_line in text
    text = text.replace("import product", "import chain, product, row")
    longer.write_text(f"{text.rstrip().removesuffix('return config')}")
    with longer.open("a") as file:
        file.write(f"config.sweep = chain({added}, config.sweep)\n    return config\n")
    before, earlier_rows = contents(copied / "stages"), rows(copied)
    argv = ["sweep", f"--config={longer}", f"--workdir={copied}", "--workers=1"]
    assert cli.main(argv) == 0
    after = contents(copied / "stages")
    assert {path: after[path] for path in before} == before
    new = {pathlib.Path(path).parts[-2] for path in after.keys() - before.keys()}
    kinds = {name.split("-")[0] for name in new if name.startswith(("q_", "p_", "pre", "fine"))}
    assert kinds == {"q_probe"}
    short, *others = rows(copied)
    assert others == earlier_rows
    assert short["name"] == "short"
    for row in (short, earlier := earlier_rows[0]):
        del row["name"], row["readouts"]["q_probe"], row["intervals"]["q_probe"]
        del row["config"]["readouts"]["q_probe"]
    assert short == earlier
    assert "single (short" in (copied / "report.html").read_text()
    capsys.readouterr()
    assert cli.main(["sweep", f"--config={config_file}", f"--workdir={copied}"]) == 2
    assert "was made by another configuration" in capsys.readouterr().err
