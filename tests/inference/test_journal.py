import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from nota_cli.errors import DataError, NotaError, UsageError
from nota_cli.inference import journal as module
from nota_cli.inference.journal import BLANK, Entry, Journal, journal_path, rank_journals

STAMP = {"recipe": {"generate": {"beams": 4}}, "weights": {}, "annotation": "abc"}
ENTRIES = [
    Entry(3, "a dog, “barks”\nloud"),
    Entry(0, "ein Hund", looped=True, seconds=1.5),
    Entry(1, "x", BLANK, reason="bad"),
]


def write(path: Path) -> None:
    journal = Journal(path, STAMP)
    journal.append(ENTRIES)
    journal.close()


def read(path: Path) -> list[Entry]:
    journal = Journal(path, STAMP)
    found = list(journal.entries())
    journal.close()
    return found


def test_entries_come_back(tmp_path: Path) -> None:
    write(tmp_path / "j")
    assert read(tmp_path / "j") == ENTRIES


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_torn_last_line_is_cut_off_and_the_next_one_whole(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path)
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(path, STAMP)
    assert list(journal.entries()) == ENTRIES[:2]
    journal.append(ENTRIES[2:])
    journal.close()
    assert read(path) == ENTRIES


def test_a_torn_header_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "j").write_text('{"nota_jour')
    assert read(tmp_path / "j") == []


def test_a_line_longer_than_what_is_read_at_once(tmp_path: Path) -> None:
    long = [Entry(0, "wort " * 500_000), Entry(1, "x" * 70_000)]
    journal = Journal(tmp_path / "j", STAMP)
    journal.append(long)
    assert list(journal.entries()) == long
    journal.close()
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes()[:-1])
    assert read(tmp_path / "j") == long[:1]


@pytest.mark.parametrize(
    "line", ["}{", "[1]", '{"row": 5}', '{"row": "5", "text": "x"}', '{"row":5,"text":"x","status":"?"}']
)
def test_a_damaged_line_is_left_out(line: str, tmp_path: Path) -> None:
    write(tmp_path / "j")
    lines = (tmp_path / "j").read_text().splitlines()
    (tmp_path / "j").write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    assert read(tmp_path / "j") == [ENTRIES[0], ENTRIES[2]]


def test_what_has_changed_is_named_and_restart_throws_it_away(tmp_path: Path) -> None:
    path = tmp_path / "j"
    write(path)
    other = {**STAMP, "recipe": {"generate": {"beams": 1}}, "annotation": "abd"}
    with pytest.raises(UsageError) as told:
        Journal(path, other)
    for words in ("recipe.generate.beams: it was 4, it is 1", "annotation: it was abc, it is abd", "--restart"):
        assert words in str(told.value)
    assert read(path) == ENTRIES  # untouched
    journal = Journal(path, other, restart=True)
    assert list(journal.entries()) == []
    journal.close()


@pytest.mark.parametrize("content", ["testset_id,text\n", "{}\n", '{"nota_journal": 99, "stamp": {}}\n'])
def test_another_file_is_not_touched(content: str, tmp_path: Path) -> None:
    (tmp_path / "j").write_text(content)
    with pytest.raises(DataError, match="--restart"):
        Journal(tmp_path / "j", STAMP)
    assert (tmp_path / "j").read_text() == content


def test_two_processes_cannot_write_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", STAMP)
    list(journal.entries())
    pid = os.fork()
    if pid == 0:
        try:
            Journal(tmp_path / "j", STAMP, restart=True)
        except UsageError as error:
            os._exit(7 if "another nota infer" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    journal.append(ENTRIES)
    journal.close()
    assert read(tmp_path / "j") == ENTRIES


def test_a_lock_on_a_journal_that_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "o.csv.journal"
    lock, gone = module.fcntl.lockf, []

    def late(*how: int) -> None:
        if not gone:  # whoever held the lock before removes his journal between this one's opening and locking
            gone.append(path.unlink())
        lock(*how)

    monkeypatch.setattr(module.fcntl, "lockf", late)
    with closing(Journal(path, {"a": 1})) as journal:
        journal.append([Entry(0, "text")])
        assert gone
        assert path.exists()
    with closing(Journal(path, {"a": 1})) as journal:
        assert [entry.text for entry in journal.entries()] == ["text"]


def test_a_journal_without_rows_leaves_no_file(tmp_path: Path) -> None:
    Journal(tmp_path / "j", STAMP).close()
    assert not (tmp_path / "j").exists()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    import resource

    path = tmp_path / "j"
    journal = Journal(path, STAMP)
    journal.append(ENTRIES)
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 30, limits[1]))
        with pytest.raises(NotaError, match="File too large") as told:
            journal.append([Entry(9, "more than thirty bytes of it")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.exit_code == 1
    assert path.stat().st_size == size
    journal.append([Entry(9, "later")])
    journal.close()
    assert [entry.row for entry in read(path)] == [3, 0, 1, 9]


def test_journals_of_ranks_are_found_by_number(tmp_path: Path) -> None:
    out = tmp_path / "a[1]*.csv"
    for rank in (10, 2):
        journal_path(out, rank).touch()
    journal_path(out).touch()
    (tmp_path / "other.csv.journal.1").touch()
    (tmp_path / f"{out.name}.journal.old").touch()
    assert rank_journals(out) == [journal_path(out, 2), journal_path(out, 10)]


def test_the_header_is_json_with_the_stamp(tmp_path: Path) -> None:
    write(tmp_path / "j")
    assert json.loads((tmp_path / "j").read_text().splitlines()[0])["stamp"] == STAMP
