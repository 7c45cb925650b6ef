"""Paths as people write them, and near names of what is not there."""

import os
import unicodedata

import pytest

from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio.headers import scan
from nota_cli.data.row_files import missing_files
from nota_cli.errors import DataError, UsageError
from nota_cli.paths import audio_path, expand_path, path_note, shard_files

NFC = unicodedata.normalize("NFC", "강아지")
NFD = unicodedata.normalize("NFD", "강아지")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "audio"
    for name in ("plain.flac", "Sub dir/A_b.wav", f"{NFD}.flac", "two.wav", "two.mp3", "100%.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


@pytest.mark.parametrize(
    ("name", "there", "differences"),
    [
        ("plain.wav", "plain.flac", ["its ending (.flac, not .wav)"]),
        ("plain", "plain.flac", ["its ending (.flac, not none)"]),
        ("Plain.flac", "plain.flac", ["capital letters"]),
        ("plain.FLAC", "plain.flac", ["capital letters"]),
        ("plain .flac", "plain.flac", ["blanks"]),
        ("plain.flac\u200b", "plain.flac", ["invisible"]),
        ("plain.flac/", "plain.flac", ["a slash at the end"]),
        ("/plain.wav", "plain.flac", ["its ending"]),
        ("audio\\plain.flac", "plain.flac", ["backslashes", "the folder audio/ in front"]),
        ("Sub dir\\A_b.wav", "Sub dir/A_b.wav", ["backslashes"]),
        ("sub%20dir/A-b.mp3", "Sub dir/A_b.wav", ["capital", "percent-encoding", "hyphens", "ending"]),
        (f"{NFC}.flac", f"{NFD}.flac", ["its Unicode form (NFD, not NFC)"]),
        (f"{NFC}.wav", f"{NFD}.flac", ["its Unicode form", "its ending"]),
    ],
)
def test_a_near_file_is_named_with_what_differs(root, name, there, differences):
    note = path_note(name, root)
    assert note is not None
    assert str(root / there) in note
    assert all(difference in note for difference in differences)
    assert note.count(" and ") == len(differences) - 1


def test_every_near_file_is_named_and_none_is_invented(root):
    note = path_note("two.flac", root)
    assert "two.mp3" in note
    assert "two.wav" in note
    for name in ("plane.flac", "plain.flac/x.wav", "a\0b.wav", "\ud800.wav", "100%.wav", ""):
        assert path_note(name, root) is None
    assert "web address" in path_note("https://example.org/a.wav", root)


def test_environment_variables_are_not_expanded_and_that_is_said(root, monkeypatch):
    monkeypatch.setenv("CORPUS", "somewhere")
    assert "Environment variables" in path_note("$CORPUS/plain.flac", root)


def test_a_leading_slash_is_under_the_root_as_the_organisers_join_it(root, tmp_path):
    assert audio_path(root, "/plain.flac") == str(root / "plain.flac")
    assert audio_path(root, "//Sub dir/A_b.wav") == str(root / "Sub dir/A_b.wav")
    assert audio_path(root, str(root / "plain.flac")) == str(root / "plain.flac")
    (tmp_path / "outside.wav").write_bytes(b"x")
    assert audio_path(root, str(tmp_path / "outside.wav")) == str(tmp_path / "outside.wav")


def test_home_is_written_out(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_path("~/audio") == str(root)
    assert expand_path("file://localhost/a%20b") == "/a b"
    assert expand_path("org/name~") == "org/name~"
    assert audio_path(root, "~/audio/plain.flac") == str(root / "plain.flac")
    (root / "~tmp.wav").write_bytes(b"x")
    assert audio_path(root, "~tmp.wav") == str(root / "~tmp.wav")
    for wrong in ("~nobody-of-this-name/x", "file://elsewhere/x"):
        with pytest.raises(ValueError, match="nobody-of-this-name|another machine"):
            expand_path(wrong)


def test_a_missing_audio_root_is_one_error(root, tmp_path):
    annotation = tmp_path / "a.json"
    annotation.write_text('{"annotation": [{"path": "plain.flac", "task": "asr"}, {"path": "two.wav", "task": "asr"}]}')
    rows = read_annotation(annotation)
    for wrong in (tmp_path / "Audio", tmp_path / "gone", root / "plain.flac"):
        for look in (scan, missing_files):
            with pytest.raises(UsageError, match="the audio root") as caught:
                look(rows, wrong)
            assert str(caught.value).count(os.fspath(wrong)) == 1
    with pytest.raises(UsageError, match="capital letters"):
        scan(rows, tmp_path / "Audio")


def test_near_names_reach_the_messages_of_the_scan_and_of_annotations(root, tmp_path):
    annotation = tmp_path / "a.json"
    annotation.write_text(
        '{"annotation": [{"path": "/plain.wav", "task": "asr"}, {"path": "/plain.flac", "task": "asr"}]}'
    )
    with pytest.raises(DataError, match=r"there is no file .*there is .*plain\.flac, which differs in its ending"):
        read_annotation(annotation, audio_root=root)
    rows = read_annotation(annotation)
    assert "its ending" in scan(rows, root)[0].remedy
    with pytest.raises(UsageError, match="ann.json, which differs in its ending|a.json, which differs in its ending"):
        read_annotation(tmp_path / "a.jsn")


def test_shards_are_named_as_in_a_shell(tmp_path):
    for name in ("a-1.tar", "a-2.tar", "a-10.tar", "b-{x,y}.tar", "c.txt"):
        (tmp_path / name).touch()

    def names(text):
        return [file.removeprefix(f"{tmp_path}/") for file in shard_files(f"{tmp_path}/{text}")]

    assert names("{a,b}-{08..10}.tar") == [f"{one}-{two}.tar" for one in "ab" for two in ("08", "09", "10")]
    assert names("a-{2..1}.tar") == ["a-2.tar", "a-1.tar"]
    assert names("a-*.tar") == ["a-1.tar", "a-10.tar", "a-2.tar"]
    assert names("{a,z}-?.tar") == ["a-1.tar", "a-2.tar", "z-?.tar"]
    assert names("b-{x,y}.tar") == ["b-{x,y}.tar"]
    assert names("{c,d}.txt") == ["{c,d}.txt"]
    assert names("none-{a}.tar") == ["none-{a}.tar"]
