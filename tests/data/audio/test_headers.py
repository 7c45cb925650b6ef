"""The scan before a run: every bad file named at once, quickly and in little memory."""

import os
import shutil
import tracemalloc

import numpy as np
import pytest
import soundfile

from nota_cli.data.annotation import Row
from nota_cli.data.audio.headers import FileProblem, Scan, describe, scan


def row(index, path, expand=()):
    return Row(index, path, "asr", None, None, f"test{index:04d}", tuple(expand))


def write(path, seconds=1.0, rate=16_000, **kwargs):
    soundfile.write(path, 0.1 * np.ones(round(seconds * rate)), rate, **kwargs)
    return path


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    write(root / "good.wav", 1.5)
    write(root / "inner" / "good.flac", 2.0, 44_100)
    write(tmp_path / "outside.wav")
    return root


def test_good_rows_and_their_durations(root):
    rows = [row(0, "good.wav"), row(1, "inner/../good.wav", ["inner/good.flac"]), row(2, str(root / "good.wav"))]
    found = scan(rows, root)
    assert found == []
    assert isinstance(found, Scan)
    assert found.durations == pytest.approx([1.5, 1.5 + 0.1 + 2.0, 1.5])


def test_every_kind_of_bad_file_at_once(root, tmp_path):
    (root / "empty.wav").touch()
    (root / "text.wav").write_text("%PDF-1.7 " * 50)
    write(root / "none.wav", 0.0)
    cut = write(root / "cut.wav")
    cut.write_bytes(cut.read_bytes()[:-500])
    (root / "loop.wav").symlink_to(root / "loop.wav")
    (root / "away.wav").symlink_to(tmp_path / "outside.wav")  # where a link leads is its owner's business
    shutil.copy(root / "inner" / "good.flac", root / "flac.wav")
    os.mkfifo(root / "pipe.wav")
    content = bytearray((root / "good.wav").read_bytes())
    content[24:28] = (4_000_000_000).to_bytes(4, "little")
    (root / "rate.wav").write_bytes(content)
    expected = {
        "gone.wav": "no such file",
        "inner": "a folder",
        "good.wav/x.wav": "not a directory",
        "empty.wav": "empty",
        "text.wav": "it is a PDF",
        "none.wav": "no samples",
        "cut.wav": "truncated",
        "loop.wav": "symbolic links",
        "pipe.wav": "pipe",
        "rate.wav": "",
        "a\0b.wav": "name",
        "\ud800.wav": "name",
        "../outside.wav": "outside the audio root",
        "inner/../../outside.wav": "outside the audio root",
        str(tmp_path / "outside.wav"): "outside the audio root",
        "../root2/good.wav": "outside the audio root",
        "caf\udce9.wav": "no such file",
    }
    names = ["good.wav", *expected, "away.wav", "flac.wav"]
    found = scan([row(index, name) for index, name in enumerate(names)], root)
    assert [bad.row for bad in found] == list(range(1, len(expected) + 1))
    for bad, (name, reason) in zip(found, expected.items(), strict=True):
        assert reason in bad.reason, name
        assert bad.id == f"test{bad.row:04d}"
        assert bad.remedy.endswith(".")
        for text in (str(bad), describe([bad]), bad.path):
            assert "\n" not in text.strip()
            text.encode()
    assert [seconds is None for seconds in found.durations] == [name in expected for name in names]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_no_permission(root):
    (root / "good.wav").chmod(0)
    (bad,) = scan([row(0, "good.wav")], root)
    assert "permission" in bad.reason


def test_files_that_are_appended_are_looked_at_too(root):
    found = scan([row(0, "good.wav", ["gone.wav", "inner/good.flac", "inner"]), row(1, "gone.wav")], root)
    assert [(bad.row, os.path.basename(bad.path)) for bad in found] == [(0, "gone.wav"), (0, "inner"), (1, "gone.wav")]
    assert found[0].remedy == "Check the path in the annotation and --audio-root."
    assert found.durations == [None, None]


def test_a_root_by_any_of_its_names(root, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for name in ("root", "link", "root/", "./root", str(tmp_path / "link")):
        assert not scan([row(0, "good.wav"), row(1, str(root / "good.wav"))], name)
    assert not scan([row(0, str(root / "good.wav"))], "/")


def test_progress_counts_every_row(root):
    counts = []
    scan([row(index, "good.wav") for index in range(1_000)], root, workers=2, on_progress=counts.append)
    assert sum(counts) == 1_000
    assert len(counts) > 1
    assert scan([], root) == []


def test_many_rows_with_a_hundredth_bad(root):
    """Each bad row is named; 100,000 rows cost little memory."""
    rows = [row(i, f"gone{i}.wav" if i % 100 == 50 else "good.wav") for i in range(100_000)]
    tracemalloc.start()
    found = scan(rows, root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [bad.row for bad in found] == list(range(50, 100_000, 100))
    assert peak < 30e6
    text = describe(found)
    assert len(text.splitlines()) == 21
    assert text.endswith("99850, 99950")


def test_a_description_groups_nothing_away():
    bad = [FileProblem(index, f"test{index:04d}", f"{index}.wav", "no such file", "Find it.") for index in (3, 4, 5, 9)]
    assert describe(bad, limit=1).splitlines() == [
        "  - row 3: (test0003) 3.wav: no such file. Find it.",
        "  ... and 3 more problems: rows 4-5, 9",
    ]
