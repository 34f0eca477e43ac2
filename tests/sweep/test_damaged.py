"""A damaged file is named in one line with its remedy."""

import gc
import pathlib
import shutil

import pytest

from kstore_jax.cli import main as cli
from kstore_jax.pipeline.results import read_graphs
from tests.sweep.sweeps import assert_alike, contents, sweep_again
from tests.train.training import orbax_drops_coroutines

KINDS = ("shards", "pretrain", "finetune")


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_a_changed_byte_in_a_shard_is_reported_in_one_line(copied, config_file, capsys, place):
    part = sorted((copied / "stages").glob("shards-*/dataset/part-*"))[-1]
    content = bytearray(part.read_bytes())
    content[int(place * len(content))] ^= 1
    part.write_bytes(content)
    before = contents(copied)
    assert sweep_again(config_file, copied) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"kstore: {part}: changed since it was written (SHA-256 differs)\n"
    assert contents(copied) == before


@pytest.mark.parametrize("content", ["", '{"rows": [', "[]", "\0\0\0"])
@pytest.mark.parametrize("name", ["config.json", "stages/qa-*/result.json"])
def test_a_damaged_file_is_reported_in_one_line_with_the_remedy(
    copied, config_file, capsys, name, content
):
    path = next(copied.glob(name))
    path.write_text(content)
    assert sweep_again(config_file, copied) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    remove = copied if name == "config.json" else "it"
    assert captured.err == f"kstore: {path}: damaged; remove {remove} and run again\n"


def test_a_damaged_result_is_recovered_once_it_is_removed(copied, finished, config_file):
    path = next(copied.glob("stages/pretrain-*/result.json"))
    path.write_text("")
    assert sweep_again(config_file, copied) == 1
    path.unlink()
    assert sweep_again(config_file, copied) == 0
    assert_alike(copied, finished)


@orbax_drops_coroutines
def test_a_damaged_checkpoint_of_a_finished_stage_is_not_replaced_by_an_earlier_one(
    copied, config_file, capsys
):
    next(copied.glob("stages/recall-*/result.json")).unlink()
    for folder in copied.glob("stages/pretrain-*"):
        (folder / "checkpoints" / "24" / "trainable" / "_METADATA").write_text("{")
    config = f"--config={config_file}"
    assert cli.main(["sweep", config, f"--workdir={copied}", "--workers=1"]) == 1
    *_, row, last = capsys.readouterr().err.splitlines()
    assert f": {copied}/stages/pretrain-" in row
    assert "/checkpoints/24/trainable: damaged; remove " in row
    assert last.startswith("kstore: 1 of 2 rows failed; ")
    gc.collect()


def flip_a_byte(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_a_changed_byte_in_a_checkpoint_is_found_by_eval(copied, capsys, kind):
    folder = copied / "stages" / read_graphs(copied)[0].stages[KINDS.index(kind)].folder
    trained = folder / "checkpoints" / "24" / "trainable"
    flip_a_byte(trained / "array_metadatas" / "process_0")  # Orbax may restore it without an error
    assert cli.main(["eval", str(copied), "--row=0", "--beam=1", "--show=0"]) == 1
    expected = f"kstore: {trained}: damaged; remove {folder} and run again\n"
    assert capsys.readouterr() == ("", expected)


def test_a_changed_byte_in_a_checkpoint_is_found_by_finetuning(copied, config_file, capsys):
    for folder in copied.glob("stages/finetune-*"):
        shutil.rmtree(folder)
    for folder in copied.glob("stages/pretrain-*"):
        flip_a_byte(folder / "checkpoints" / "24" / "trainable" / "array_metadatas" / "process_0")
    assert sweep_again(config_file, copied) == 1
    assert "/checkpoints/24/trainable: damaged; remove " in capsys.readouterr().err


def test_a_stage_file_without_parents_is_damaged(copied, capsys):
    path = next(copied.glob("stages/pretrain-*/stage.json"))
    path.write_text("{}")
    for command in (["status", copied], ["gc", copied / "stages", f"--keep={copied}"]):
        assert cli.main([*map(str, command)]) == 1
        expected = (
            f"kstore: {path}: damaged (parents: got None); remove {path.parent} and run again\n"
        )
        assert capsys.readouterr().err == expected
