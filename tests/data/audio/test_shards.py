"""Recordings in tar files are heard, measured and refused as those in files of their own."""

import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nota_cli.data import training_rows
from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio.clip import load_audio
from nota_cli.data.audio.headers import scan
from nota_cli.data.batches import TrainingBatches
from nota_cli.data.training_rows import TrainingRows
from nota_cli.errors import AudioError, DataError
from nota_cli.features.batch import FeatureSpec
from nota_cli.recipe.training import Augment, Source

SPEC = FeatureSpec(mel_bins=80, front_end=None, pad="clip", max_seconds=30.0)


@pytest.fixture
def packed(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clips in two shards, and the annotation `all.json` over them."""
    monkeypatch.setenv("NOTA_CACHE", str(tmp_path / "kept"))
    folder = tmp_path / "packed"
    folder.mkdir()
    rows = json.loads((clips / "all.json").read_text())["annotation"]
    for number, row in enumerate(rows):
        shard = f"shard-{number % 2}.tar"
        with tarfile.open(folder / shard, "a") as archive:
            name = f"./{number:06d}.wav" if number == 2 else f"deep/{number:06d}.wav"
            archive.add(clips / row["path"], name)
        row["path"] = f"{shard}/{name.removeprefix('./')}"
    (folder / "all.json").write_text(json.dumps({"annotation": rows}))
    return folder


def shard_of(folder: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    file = folder / "other.tar"
    with tarfile.open(file, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


@pytest.mark.parametrize("least", [1, 2**25])
def test_members_are_what_the_files_are(least: int, packed: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_rows, "LARGE_BYTES", least)
    rows, plain = read_annotation(packed / "all.json", audio_root=packed), read_annotation(clips / "all.json")
    measured = scan(rows, packed)
    assert not measured
    assert measured.durations == scan(plain, clips).durations
    sources = [Source(annotation=str(root / "all.json"), audio_root=str(root)) for root in (packed, clips)]
    ours, expected = (TrainingBatches([each], SPEC, Augment(), 3, seed=0, buckets=2) for each in sources)
    for index in range(4):
        assert ours.plan[index] == expected.plan[index]
        assert ours[index].texts == expected[index].texts
        assert torch.equal(ours[index].features.log_mel, expected[index].features.log_mel)


def test_headers_of_a_shard_are_read_once_and_again_when_it_changes(
    packed: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> None:
        read_annotation(packed / "all.json", audio_root=packed)

    child = os.fork()  # an earlier process
    if child == 0:
        read()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with monkeypatch.context() as patched:
        patched.setattr(tarfile, "open", lambda *arguments, **more: pytest.fail("headers are read again"))
        read()
    with tarfile.open(packed / "shard-0.tar", "a") as archive:
        archive.add(clips / "audio" / "c1.wav", "new.wav")
    assert len(load_audio(packed / "shard-0.tar" / "new.wav")) == 16_000
    assert len(list((tmp_path / "kept" / "rows").glob("tar-*.npy"))) == 3


def test_what_is_wrong_with_a_member_is_named(packed: Path, tmp_path: Path) -> None:
    (packed / "bad.json").write_text(
        json.dumps({"annotation": [{"path": f"other.tar/{n}", "task": "asr"} for n in ("gone.wav", "no.wav", "b.wav")]})
    )
    shard = shard_of(packed, {"no.wav": b"", "b.wav": b"not audio" * 99})
    with pytest.raises(DataError) as error:
        read_annotation(packed / "bad.json", audio_root=packed)
    assert f"row 0: there is no file {shard}/gone.wav; correct" in str(error.value)
    assert f"row 1: {shard}/no.wav is empty (0 bytes)" in str(error.value)
    assert "row 2" not in str(error.value)
    with pytest.raises(AudioError, match=r"other\.tar/b\.wav \(annotation row 2\): not audio"):
        load_audio(shard / "b.wav", row=2)
    with pytest.raises(AudioError, match=r"other\.tar/gone\.wav: no such file"):
        load_audio(shard / "gone.wav")


@pytest.mark.parametrize("kind", ["cut", "compressed", "twice"])
def test_a_shard_that_is_none_is_named(kind: str, packed: Path) -> None:
    shard = shard_of(packed, {"a.wav": b"0" * 4000, "b.wav": b"1" * 4000}, "w:gz" if kind == "compressed" else "w")
    if kind == "cut":
        with shard.open("rb+") as file:
            file.truncate(6000)
    if kind == "twice":
        with tarfile.open(shard, "a") as archive:
            archive.addfile(tarfile.TarInfo("a.wav"))
    problem = r"has the member a\.wav twice" if kind == "twice" else "is no whole tar file without compression"
    with pytest.raises(AudioError, match=rf"other\.tar/a\.wav: cannot be read: .*other\.tar {problem}"):
        load_audio(shard / "a.wav")
    (packed / "bad.json").write_text(json.dumps({"annotation": [{"path": "other.tar/a.wav", "task": "asr"}]}))
    with pytest.raises(DataError, match=rf"row 0: cannot look at .*: .*other\.tar {problem}"):
        read_annotation(packed / "bad.json", audio_root=packed)


def test_no_descriptor_is_left_open(packed: Path) -> None:
    rows = read_annotation(packed / "all.json")
    for row in rows:
        load_audio(packed / row.path)
    before = len(os.listdir("/proc/self/fd"))
    for row in rows * 3:
        load_audio(packed / row.path)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def described(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the clips in three shards, what is said of each beside it."""
    monkeypatch.setenv("NOTA_CACHE", str(tmp_path / "kept"))
    folder = tmp_path / "described"
    folder.mkdir()
    for number, row in enumerate(json.loads((clips / "all.json").read_text())["annotation"]):
        with tarfile.open(folder / f"s-{number // 2:02d}.tar", "a") as archive:
            data = json.dumps({key: value for key, value in row.items() if key != "path"}).encode()
            info = tarfile.TarInfo(f"{number:06d}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            archive.add(clips / row["path"], f"{number:06d}.wav")
    return folder


@pytest.mark.parametrize("name", ["s-{00..02}.tar", "s-*.tar", "s-{00,01,02}.tar"])
@pytest.mark.parametrize("least", [1, 2**25])
def test_shards_stand_for_an_annotation(
    least: int, name: str, described: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_rows, "LARGE_BYTES", least)
    sources = [
        Source(annotation=str(described / name), audio_root=str(described)),
        Source(annotation=str(clips / "all.json"), audio_root=str(clips)),
    ]
    ours, expected = (TrainingBatches([each], SPEC, Augment(), 3, seed=0, buckets=2) for each in sources)
    rows = ours.corpora[0].rows
    assert [row.path for row in rows] == [f"s-{number // 2:02d}.tar/{number:06d}.wav" for number in range(5)]
    plain = [replace(row, path="") for row in read_annotation(clips / "all.json")]
    assert [replace(row, path="") for row in rows] == plain
    assert ours.plan[0] == expected.plan[0]
    assert torch.equal(ours[0].features.log_mel, expected[0].features.log_mel)


def test_a_shard_added_or_changed_is_another_table(described: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_rows, "LARGE_BYTES", 1)
    both = [len(TrainingRows(str(described / "s-*.tar"), str(described)).table) for _ in range(2)]
    (described / "s-02.tar").unlink()
    assert [*both, len(TrainingRows(str(described / "s-*.tar"), str(described)).table)] == [5, 5, 4]


def test_what_is_wrong_in_shards_is_named_with_its_row(described: Path, tmp_path: Path) -> None:
    good = json.dumps({"task": "asr", "text": "x"}).encode()
    members = {
        "a.json": b"{", "a.wav": b"0", "b.wav": b"0", "c.json": good, "c.txt": b"0", "c.wav": b"0",
        "d.json": json.dumps({"task": "asrr"}).encode(), "d.wav": b"0", "e.json": good, "e.wav": b"",
        "f.json": json.dumps({"task": "asr", "path": "deep/f.x"}).encode(), "f.y": b"0", "f.z": b"0",
    }  # fmt: skip
    shard = shard_of(described, members)
    with pytest.raises(DataError) as error:
        TrainingRows(str(shard), str(described))
    lines = str(error.value).splitlines()
    assert lines[0] == f"{shard}: 6 problems (rows counted from 0):"
    for number, problem in enumerate(
        [
            f"{shard}: a.json is not JSON: Expecting property name enclosed in double quotes at column 2; mend it",
            f"{shard}: b has no b.json beside it, with the row's `text` and `task`",
            f"{shard}: c.json has 2 files beside it; name the recording's by `path` in it",
            "unknown task 'asrr'; did you mean asr",
            f"{shard}/e.wav is empty (0 bytes); fetch it again or remove the row",
            f"there is no file {shard}/deep/f.x; correct `path` or the audio root",
        ]
    ):
        assert lines[1 + number].startswith(f"  - row {number}: {problem}")
    with pytest.raises(DataError, match=r"lies outside the audio root .*; name its own folder"):
        TrainingRows(str(shard), str(tmp_path / "kept"))
