"""What a journal took it gives back, whatever killed the process that wrote it."""

import json
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kstore_jax.errors import DamagedFileError, UserError
from kstore_jax.writers import journal

CONFIG = {"model": "m", "seed": 3}
FIELDS = ("n",)


def read(path) -> list[dict]:
    return [record for _, record in journal.records(path, FIELDS)]


def test_what_was_added_is_read_in_order_and_by_place(tmp_path):
    added = [{"n": i, "text": "é\n\u2028" * i} for i in range(50)]
    for half in (added[:20], added[20:]):
        with journal.opened(tmp_path / "j", CONFIG) as kept:
            for record in half:
                kept.append(record)
    path = tmp_path / "j" / journal.JOURNAL
    assert read(path) == added
    places = [place for place, _ in journal.records(path, FIELDS)]
    assert journal.read_at(path, places[::-7]) == added[::-7]


@given(cut=st.integers(0, 200), torn=st.binary(max_size=30).filter(lambda b: b"\n" not in b))
def test_a_torn_last_line_is_dropped_and_the_next_is_whole(tmp_path_factory, cut, torn):
    path = tmp_path_factory.mktemp("torn") / journal.JOURNAL
    added = [{"n": i, "text": "x" * i} for i in range(8)]
    whole = b"".join(json.dumps(record).encode() + b"\n" for record in added)[:cut]
    path.write_bytes(whole + torn)
    left = added[: whole.count(b"\n")]
    kept = journal.Journal(path)
    kept.append({"n": 99})
    kept.close()
    assert read(path) == [*left, {"n": 99}]


def test_a_torn_line_longer_than_what_is_read_at_a_time(tmp_path):
    path = tmp_path / journal.JOURNAL
    path.write_bytes(b'{"n":1}\n' + b"x" * 200_000)
    assert read(path) == [{"n": 1}]
    journal.Journal(path).close()
    assert path.read_bytes() == b'{"n":1}\n'


@pytest.mark.parametrize("line", [b"{oops}", b"[1]", b'{"m":1}'])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / journal.JOURNAL
    path.write_bytes(b'{"n":1}\n' + line + b'\n{"n":2}\n')
    with pytest.raises(DamagedFileError, match=r"journal\.jsonl:2: damaged"):
        read(path)


def test_another_configuration_another_folder_and_another_process_are_refused(tmp_path):
    with journal.opened(tmp_path / "j", CONFIG) as kept:
        kept.append({"n": 1})
        with (
            pytest.raises(UserError, match="another process writes"),
            journal.opened(tmp_path / "j", CONFIG),
        ):
            pass
    with pytest.raises(UserError, match=r"made with another seed: 3, not 4"):
        journal.check(tmp_path / "j", {**CONFIG, "seed": 4})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty and holds no journal"):
        journal.check(tmp_path / "mine", CONFIG)


def test_a_new_journal_without_records_leaves_nothing(tmp_path):
    with pytest.raises(UserError), journal.opened(tmp_path / "j", CONFIG):
        raise UserError("nobody is there")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_whole_leaves_nothing_of_it(tmp_path, monkeypatch):
    path = tmp_path / journal.JOURNAL
    kept = journal.Journal(path)
    kept.append({"n": 1})
    file = kept._file

    class Full:
        def write(self, line):
            if len(line) > 4:
                return file.write(line[:4])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(file, name)

    monkeypatch.setattr(kept, "_file", Full())
    with pytest.raises(OSError, match="No space"):
        kept.append({"n": 2222222})
    monkeypatch.undo()
    kept.append({"n": 3})
    kept.close()
    assert read(path) == [{"n": 1}, {"n": 3}]


def test_sigkill_loses_nothing_that_was_taken(tmp_path):
    path = tmp_path / journal.JOURNAL
    program = (
        "import pathlib, sys; from kstore_jax.journal import Journal\n"
        "kept = Journal(pathlib.Path(sys.argv[1]))\n"
        "for n in range(10**6):\n    kept.append({'n': n}); print(n, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(500):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = [line for line in process.stdout.read().splitlines() if line]
    process.wait()
    process.stdout.close()
    taken = [record["n"] for record in read(path)]
    assert taken == list(range(len(taken)))
    assert len(taken) >= 500 + len(told) - 1
