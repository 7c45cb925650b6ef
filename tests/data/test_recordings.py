"""Words of a command line to recordings: files, folders, globs and stdin."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nota_cli.data.annotation import row_id
from nota_cli.data.recordings import named_recordings, recording_rows
from nota_cli.errors import UsageError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Write short sounds into the working folder, which is an empty one."""
    monkeypatch.chdir(tmp_path)

    def write(*names: str) -> Path:
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = file.suffix[1:].upper() if file.suffix in (".wav", ".flac", ".ogg") else "FLAC"
            with file.open("wb") as opened:
                soundfile.write(opened, np.full(8_000, 0.1), 16_000, format=kind)
        return tmp_path

    return write


def names(*words: str) -> list[str]:
    with named_recordings(words) as found:
        return [each.name for each in found.files]


def test_files_keep_their_order_and_a_folder_has_its_natural_one(make: Make) -> None:
    make("f/take10.wav", "f/take2.wav", "f/Take3.flac", "f/b/1.ogg", "f/a/11.wav", "f/a/9.wav", "z.wav", "a.wav")
    assert names("z.wav", "a.wav") == ["z.wav", "a.wav"]
    expected = ["f/take2.wav", "f/Take3.flac", "f/take10.wav", "f/a/9.wav", "f/a/11.wav", "f/b/1.ogg"]
    assert names("f") == names("f/") == names("./f") == expected
    assert names("z.wav", "f/b") == ["z.wav", "f/b/1.ogg"]
    assert names(str(Path("a.wav").absolute())) == [str(Path("a.wav").absolute())]


def test_what_is_no_recording_in_a_folder_is_counted_and_passed_over(make: Make) -> None:
    folder = make("f/a.wav", "f/no_ending", "f/.hidden.wav", "f/.cache/b.wav")
    for other in ("notes.txt", "labels.json", "README", "cover.jpg"):
        (folder / "f" / other).write_text("no sound")
    (folder / "f" / "damaged.wav").write_text("no sound")  # by its name one: whoever reads it finds out
    os.mkfifo(folder / "f" / "pipe")  # opening it would wait for ever
    with named_recordings(["f"]) as found:
        assert [each.name for each in found.files] == ["f/a.wav", "f/damaged.wav", "f/no_ending"]
        assert sorted(found.passed_over) == [
            f"f/{name}" for name in ("README", "cover.jpg", "labels.json", "notes.txt", "pipe")
        ]
        assert found.notes == [
            "5 files are not recordings and are skipped: f/cover.jpg, f/labels.json, f/notes.txt, ..."
        ]
    with named_recordings(["f", "f/notes.txt"]) as found:  # named itself: an error for whoever reads it
        assert found.files[-1].name == "f/notes.txt"
        assert "f/notes.txt" not in found.passed_over


def test_formats_of_speech_corpora_are_recordings_by_name_and_by_content(make: Make) -> None:
    folder = make("f/a.wav")
    for name, form in (("b.voc", "VOC"), ("c", "VOC"), ("d.nist", "NIST"), ("e.old", "NIST")):
        soundfile.write(folder / "f" / name, np.full(8_000, 0.1), 16_000, format=form, subtype="PCM_16")
    assert names("f") == ["f/a.wav", "f/b.voc", "f/c", "f/d.nist", "f/e.old"]


def test_links_are_followed_and_circles_end(make: Make) -> None:
    folder = make("f/a.wav", "other/b.wav")
    (folder / "f" / "elsewhere").symlink_to(folder / "other")
    (folder / "f" / "self").symlink_to(folder / "f")
    (folder / "other" / "up").symlink_to("..")
    assert names("f") == ["f/a.wav", "f/elsewhere/b.wav"]
    assert names("f/**") == names("f/**/*.wav") == ["f/a.wav", "f/elsewhere/b.wav"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.wav", ["a1.wav", "a10.wav"]),
        ("a?.wav", ["a1.wav"]),
        ("f/[ab]*.wav", ["f/b.wav"]),
        ("f*", ["f/b.wav", "f/g/c.wav"]),
        ("f/*", ["f/b.wav", "f/g/c.wav"]),
        ("**/*.wav", ["a1.wav", "a10.wav", "f/b.wav", "f/g/c.wav"]),
        ("f/**/*.wav", ["f/b.wav", "f/g/c.wav"]),
        ("f/**/g", ["f/g/c.wav"]),
        ("f/**", ["f/b.wav", "f/g/c.wav"]),
        ("**/g/*.wav", ["f/g/c.wav"]),
    ],
)
def test_globs(pattern: str, expected: list[str], make: Make) -> None:
    folder = make("a1.wav", "a10.wav", ".a2.wav", "f/b.wav", "f/g/c.wav", "f/.h/d.wav")
    (folder / "f" / "notes.txt").write_text("no sound")
    assert names(pattern) == expected
    absolute = os.path.join(folder, pattern)
    assert names(absolute) == [os.path.join(folder, name) for name in expected]


def test_a_name_that_looks_like_a_glob_and_a_home_that_the_shell_left(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("[1].wav", "1.wav", "what?.wav", "home/x.wav")
    assert names("[1].wav", "what?.wav") == ["[1].wav", "what?.wav"]
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert names("~/x.wav") == names("~/*.wav") == names("~") == [str(folder / "home" / "x.wav")]


def test_a_file_that_is_named_twice_is_read_once(make: Make) -> None:
    folder = make("f/a.wav", "f/b.wav")
    with named_recordings(["f/b.wav", "f", "./f/../f/a.wav", str(folder / "f" / "b.wav")]) as found:
        assert [each.name for each in found.files] == ["f/b.wav", "f/a.wav"]
        assert found.repeated == 3
        assert "read once" in found.notes[-1]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("none*.wav", r"none\*\.wav: no such file"),
        ("nowhere/**/*.wav", "no such file"),
        ("*.txt", "none of the 1 file is a recording"),
        ("empty", "no recording in the folder empty. Name"),
        ("texts", r"no recording in the folder texts \(it has 1 file"),
        ("rows.json", "--annotation rows.json"),
        ("rows.jsonl", "--annotation rows.jsonl"),
        ("", "empty"),
        ("  ", "empty"),
    ],
)
def test_words_that_name_no_recording(word: str, message: str, make: Make) -> None:
    folder = make()
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    for other in ("a.txt", "texts/a.txt", "rows.json"):
        (folder / other).write_text("{}")
    with pytest.raises(UsageError, match=message), named_recordings([word]):
        pass


def test_files_that_are_not_there_are_left_to_whoever_reads_them(make: Make) -> None:
    folder = make()
    (folder / "broken.wav").symlink_to("nowhere.wav")
    assert names("none.wav", "broken.wav") == ["none.wav", "broken.wav"]


class _Stdin(io.TextIOWrapper):
    def __init__(self, content: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("word", ["-", "/dev/stdin"])
def test_stdin_is_a_file_for_as_long_as_it_is_needed(word: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (make("a.wav") / "a.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", _Stdin(content))
    with named_recordings([word, "a.wav", "-"]) as found:
        assert [each.name for each in found.files] == ["-", "a.wav"]
        kept = found.files[0].path
        assert kept.read_bytes() == content
        assert not found.single
    assert not kept.exists()


@pytest.mark.parametrize("stdin", [None, _Stdin(b"", terminal=True)])
def test_stdin_that_nobody_writes_to(stdin: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UsageError, match="stdin"), named_recordings(["-"]):
        pass


def test_one_word_for_one_file(make: Make) -> None:
    make("f/a.wav", "[1].wav")
    for word, single in (("f/a.wav", True), ("[1].wav", True), ("f", False), ("f/*.wav", False), ("none.wav", True)):
        with named_recordings([word]) as found:
            assert found.single is single
    with named_recordings(["f/a.wav", "[1].wav"]) as found:
        assert not found.single


def test_rows_are_named_by_their_files(make: Make) -> None:
    make("f/a.wav", "b.wav")
    with named_recordings(["f", "b.wav"]) as found:
        rows = recording_rows(found.files, "asr")
    assert [(row_id(row), row.path, row.task, row.number) for row in rows] == [
        ("f/a.wav", "f/a.wav", "asr", None),
        ("b.wav", "b.wav", "asr", None),
    ]


def test_odd_names_are_printable(make: Make) -> None:
    folder = make("a.wav")
    odd = [os.fsdecode(b"\xff.wav"), "tab\there.wav", "line\nbreak.wav", "한글.wav"]
    for name in odd:
        os.link(folder / "a.wav", folder / name)
    with named_recordings(odd) as found:
        assert [str(each.path) for each in found.files] == odd
        assert [each.name for each in found.files] == ["\\udcff.wav", "tab\\there.wav", "line\\nbreak.wav", "한글.wav"]
