"""Checkpoints of a training: kept, dropped, damaged, on a full disk, killed while one is saved."""

import dataclasses
import gc
import json
import multiprocessing
import os
import pathlib
import re
import resource
import shutil
import signal
import threading
import time

import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.train.checkpoint import Checkpoints, digest
from kstore_jax.train.fit import fit
from kstore_jax.train.mesh import make_mesh, shard_tree
from tests.train.training import (
    TRAINING,
    Interrupted,
    interrupted_at,
    losses,
    orbax_drops_coroutines,
    same_bits,
    saved,
    steps_saved,
    task,
)


def test_the_newest_two_checkpoints_are_kept(tmp_path):
    fit(task(), dataclasses.replace(TRAINING, checkpoint_every=5), tmp_path)
    assert steps_saved(tmp_path) == [15, 20]


def killed_while_saving(folder: pathlib.Path, mark: str) -> None:
    """Trains, and is killed as soon as some file of the checkpoint of step 20 is there."""
    save = Checkpoints.save

    def saving(self, step, **trees):
        save(self, step, **trees)
        if step == 20:
            written = folder / "checkpoints" / "20.orbax-checkpoint-tmp" / mark
            while not written.exists() and not (folder / "checkpoints" / "20").exists():
                pass
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = saving
    fit(task(), TRAINING, folder)


@pytest.mark.parametrize("mark", ["", "optimizer/ocdbt.process_0"], ids=["begun", "half"])
def test_killed_while_it_saves_it_ends_as_an_undisturbed_one(tmp_path, undisturbed, mark):
    process = multiprocessing.get_context("spawn").Process(
        target=killed_while_saving, args=(tmp_path, mark)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["10", "20.orbax-checkpoint-tmp"]
    fit(task(), TRAINING, tmp_path)
    assert steps_saved(tmp_path) == [10, 20]
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


def test_checkpoints_of_multiples_are_kept_for_good(tmp_path):
    fit(
        task(), dataclasses.replace(TRAINING, checkpoint_every=5, keep_checkpoint_every=5), tmp_path
    )
    assert steps_saved(tmp_path) == [5, 10, 15, 20]


def test_checkpoints_leave_no_thread_and_no_file_open(tmp_path):
    def locked() -> tuple[int, int]:
        gc.collect()
        return threading.active_count(), len(os.listdir("/dev/fd"))

    often = dataclasses.replace(TRAINING, checkpoint_every=5)
    fit(task(), often, tmp_path / "first")
    threads, files = locked()
    fit(task(), often, tmp_path / "second")
    after = locked()
    assert after[0] <= threads
    assert after[1] <= files


def test_a_checkpoint_is_written_when_so_long_has_passed_and_changes_nothing(tmp_path, undisturbed):
    """At the end of the steps after: the processes of a run agree on it meanwhile."""
    soon = dataclasses.replace(TRAINING, checkpoint_minutes=1e-9, checkpoint_every=20)
    with pytest.raises(Interrupted):
        fit(interrupted_at(15), soon, tmp_path)
    assert steps_saved(tmp_path) == [10]
    fit(task(), soon, tmp_path)
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


def damage(folder: pathlib.Path, step: int) -> None:
    """Cuts what a checkpoint says of its arrays short."""
    path = folder / "checkpoints" / str(step) / "trainable" / "_METADATA"
    path.write_bytes(path.read_bytes()[:100])


@orbax_drops_coroutines
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_gone_on_from(
    tmp_path, undisturbed, capsys
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    damage(tmp_path, 20)
    fit(task(), TRAINING, tmp_path)
    path = tmp_path / "checkpoints" / "20"
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {path}: damaged; resuming from step 10"]
    assert losses(tmp_path) == losses(undisturbed)
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


@orbax_drops_coroutines
def test_where_no_checkpoint_is_whole_the_newest_is_named_and_all_are_left(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    damage(tmp_path, 10)
    damage(tmp_path, 20)
    output = f"{tmp_path / 'checkpoints' / '20'}: damaged; remove {tmp_path} and run again"
    with pytest.raises(DamagedFileError, match=f"^{re.escape(output)}$"):
        fit(task(), TRAINING, tmp_path)
    assert steps_saved(tmp_path) == [10, 20]


def data_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those of the newest checkpoint that hold arrays."""
    return sorted((folder / "checkpoints" / "20").glob("**/d/*"))


def flip(path: pathlib.Path, place: float) -> None:
    """Changes one byte."""
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(content)


@orbax_drops_coroutines
@pytest.mark.parametrize("place", [0.05, 0.3, 0.6, 0.9])
def test_no_byte_of_a_checkpoint_changes_unnoticed(tmp_path, undisturbed, place):
    """Bytes that are not read may change: the loaded arrays are the saved ones."""
    noticed = 0
    for i, path in enumerate(data_files(undisturbed)):
        copy = tmp_path / str(i)
        shutil.copytree(undisturbed, copy)
        flip(copy / path.relative_to(undisturbed), place)
        try:
            found = saved(copy, 20)
        except DamagedFileError:
            noticed += 1
        else:
            assert same_bits(found, saved(undisturbed, 20))
    assert noticed >= 2
    gc.collect()  # what Orbax dropped, while its warnings are expected


@orbax_drops_coroutines
def test_a_training_goes_on_from_the_checkpoint_before_one_with_changed_arrays(
    tmp_path, undisturbed, capsys
):
    for i, path in enumerate(data_files(undisturbed)):
        copy = tmp_path / str(i)
        shutil.copytree(undisturbed, copy)
        for place in (0.2, 0.5, 0.8):
            flip(copy / path.relative_to(undisturbed), place)
        fit(task(), TRAINING, copy)
        note = f"note: {copy / 'checkpoints' / '20'}: damaged; resuming from step 10"
        assert note in capsys.readouterr().err
        assert losses(copy) == losses(undisturbed)
        assert same_bits(saved(copy, 20), saved(undisturbed, 20))
    gc.collect()  # as above


def test_a_digest_tells_arrays_apart_and_not_where_they_lie():
    mesh = make_mesh()
    draw = np.random.default_rng(0)
    tree = {
        "matrix": draw.normal(size=(8, 6)).astype(np.float32),
        "half": jnp.ones(5, jnp.bfloat16),
        "flag": np.array(True),
        "none": np.zeros(0, np.int32),
    }
    found = {digest(tree), digest(shard_tree(mesh, tree))}
    assert len(found) == 1
    flat = tree["matrix"].reshape(-1)
    swapped = flat[[1, 0, *range(2, 48)]].reshape(8, 6)
    changed = flat.copy()
    changed.view(np.uint32)[17] ^= 1
    for other in (
        {**tree, "matrix": swapped},
        {**tree, "matrix": changed.reshape(8, 6)},
        {**tree, "flag": np.array(False)},
        {**tree, "half": jnp.ones(5, jnp.bfloat16).at[4].set(1.5)},
    ):
        found.add(digest(other))
    assert len(found) == 5


def test_a_checkpoint_of_before_there_were_digests_is_read(tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints" / "20" / "_CHECKPOINT_METADATA"
    metadata = json.loads(path.read_text())
    assert metadata["custom_metadata"]["digests"].keys() == {"trainable", "optimizer"}
    path.write_text(json.dumps({**metadata, "custom_metadata": {}}))
    assert same_bits(saved(tmp_path, 20), saved(undisturbed, 20))


def on_a_full_disk(folder: pathlib.Path, message: pathlib.Path) -> None:
    """Trains on a disk that is full at the second checkpoint; writes the error to `message`."""
    saved_steps, save = folder / "checkpoints", Checkpoints.save

    def save_and_end(self, step, **trees):
        if step == 20:
            while not (saved_steps / "10").exists():
                time.sleep(0.01)
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, most))
        save(self, step, **trees)

    Checkpoints.save = save_and_end
    try:
        fit(task(), TRAINING, folder)
    except UserError as error:
        message.write_text(str(error))


def test_a_full_disk_is_told_in_one_line_and_leaves_the_last_checkpoint(tmp_path, undisturbed):
    saved_steps, message = tmp_path / "run" / "checkpoints", tmp_path / "message"
    saved_steps.parent.mkdir()
    process = multiprocessing.get_context("spawn").Process(
        target=on_a_full_disk, args=(saved_steps.parent, message)
    )
    process.start()
    process.join()
    expected = f"{saved_steps}: a checkpoint could not be written; the last whole one is kept"
    assert re.fullmatch(f"{re.escape(expected)} .*File too large.*", message.read_text())
    assert (saved_steps / "10").exists()
    assert not (saved_steps / "20").exists()
    fit(task(), TRAINING, saved_steps.parent)
    assert same_bits(saved(saved_steps.parent, 20), saved(undisturbed, 20))


def test_what_goes_wrong_in_a_save_and_is_not_of_the_disk_is_left_as_it_is(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("a dimension of ours")

    monkeypatch.setattr(ocp.training.Checkpointer, "save_checkpointables_async", broken)
    with pytest.raises(ValueError, match=r"^a dimension of ours$"):
        fit(task(), TRAINING, tmp_path)
