"""A journal returns every record that was appended, however its process was killed."""

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
FIELDS = {"n": int}


def read(path) -> list[dict]:
    return [record for _, record in journal.read_records(path, FIELDS)]


def test_records_are_read_in_order_and_by_offset(tmp_path):
    records = [{"n": i, "text": "é\n\u2028" * i} for i in range(50)]
    for part in (records[:20], records[20:]):
        with journal.open_journal(tmp_path / "j", CONFIG) as opened:
            for record in part:
                opened.append(record)
    path = tmp_path / "j" / journal.JOURNAL
    assert read(path) == records
    offsets = [offset for offset, _ in journal.read_records(path, FIELDS)]
    assert journal.read_at(path, offsets[::-7], FIELDS) == records[::-7]


@given(cut=st.integers(0, 200), torn=st.binary(max_size=30).filter(lambda b: b"\n" not in b))
def test_a_torn_last_line_is_dropped_and_the_next_is_complete(tmp_path_factory, cut, torn):
    path = tmp_path_factory.mktemp("torn") / journal.JOURNAL
    records = [{"n": i, "text": "x" * i} for i in range(8)]
    content = b"".join(json.dumps(record).encode() + b"\n" for record in records)[:cut]
    path.write_bytes(content + torn)
    complete = records[: content.count(b"\n")]
    opened = journal.Journal(path)
    opened.append({"n": 99})
    opened.close()
    assert read(path) == [*complete, {"n": 99}]


def test_a_torn_line_longer_than_a_read_block_is_dropped(tmp_path):
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
    with journal.open_journal(tmp_path / "j", CONFIG) as opened:
        opened.append({"n": 1})
        with (
            pytest.raises(UserError, match="another process writes"),
            journal.open_journal(tmp_path / "j", CONFIG),
        ):
            pass
    with pytest.raises(UserError, match=r"made with another seed: 3, not 4"):
        journal.check_config(tmp_path / "j", {**CONFIG, "seed": 4})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="is not empty and has no journal"):
        journal.check_config(tmp_path / "mine", CONFIG)


def test_a_new_journal_without_records_leaves_nothing(tmp_path):
    with pytest.raises(UserError), journal.open_journal(tmp_path / "j", CONFIG):
        raise UserError("no server there")
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_written_completely_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / journal.JOURNAL
    opened = journal.Journal(path)
    opened.append({"n": 1})
    file = opened._file

    class Full:
        def write(self, line):
            if len(line) > 4:
                return file.write(line[:4])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(file, name)

    monkeypatch.setattr(opened, "_file", Full())
    with pytest.raises(OSError, match="No space"):
        opened.append({"n": 2222222})
    monkeypatch.undo()
    opened.append({"n": 3})
    opened.close()
    assert read(path) == [{"n": 1}, {"n": 3}]


def test_sigkill_loses_no_record(tmp_path):
    path = tmp_path / journal.JOURNAL
    program = (
        "import pathlib, sys; from kstore_jax.writers.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "for n in range(10**6):\n    journal.append({'n': n}); print(n, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(500):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    later = [line for line in process.stdout.read().splitlines() if line]
    process.wait()
    process.stdout.close()
    appended = [record["n"] for record in read(path)]
    assert appended == list(range(len(appended)))
    assert len(appended) >= 500 + len(later) - 1
