"""Rows to train on through a table: the same rows, refusals and order as of a list, short annotations or long."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.random import Generator
from pyarrow import parquet

from nota_cli.data import row_table, training_rows
from nota_cli.data.annotation import Row, read_annotation
from nota_cli.data.audio.headers import scan
from nota_cli.data.batches import TrainingBatches
from nota_cli.data.kept import kept_folder
from nota_cli.data.plan import BatchPlan
from nota_cli.data.training_rows import TrainingRows
from nota_cli.errors import DataError, NotaError, UsageError
from nota_cli.features.batch import FeatureSpec
from nota_cli.recipe.training import Augment, Source

SPEC = FeatureSpec(mel_bins=80, front_end=None, pad="clip", max_seconds=30.0)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every annotation counts as large; the folder of what is kept."""
    monkeypatch.setattr(training_rows, "LARGE_BYTES", 1)
    monkeypatch.setattr(row_table, "ROWS_AT_ONCE", 3)  # several batches, and a row of the second in the first's place
    monkeypatch.setenv("NOTA_CACHE", str(tmp_path / "kept"))
    return kept_folder()


@pytest.fixture
def some(clips: Path, tmp_path: Path) -> Path:
    """A folder with an annotation `a.json` that has whatever a row may have, and its files."""
    folder = tmp_path / "some"
    shutil.copytree(clips / "audio", folder / "audio")
    shutil.copy(folder / "audio" / "c0.wav", os.fsdecode(os.fsencode(folder) + b"/\xff.wav"))
    rows: list[dict[str, Any]] = [
        {"path": "audio/c0.wav", "text": "강아지", "task": "asr", "speaker": "b"},
        {"path": "audio/c1.wav", "text": ["one", "two"], "texts": ["three"], "task": "audiocaption", "label": "dog"},
        {"path": "audio/c2.wav", "text": "x", "task": "QA", "Q": "what?", "testset_id": "mine", "speaker": "a"},
        {"path": "audio/c3.wav", "text": "", "task": "asr", "expand_wav": ["audio/c1.wav", "\udcff.wav"]},
        {"path": "\udcff.wav", "text": None, "task": "asr", "texts": [], "expand_wav": None, "corpus": 7},
    ]
    (folder / "a.json").write_text(json.dumps({"annotation": rows * 4}).replace('"mine"', "null", 3))
    return folder


def test_rows_are_those_of_the_list(large: Path, some: Path) -> None:
    rows = TrainingRows(str(some / "a.json"), str(some))
    expected = read_annotation(some / "a.json", audio_root=some)
    for table in (rows.table, TrainingRows(str(some / "a.json"), str(some)).table):
        assert list(table) == expected
        assert table[-1] == expected[-1]
        assert table[3:9:2] == expected[3:9:2]
        assert table.lacking("text").tolist() == [row.index for row in expected if row.text is None]
        assert table.values("label") == ["dog"]
        with pytest.raises(IndexError):
            table[len(expected)]
    groups = rows.table.groups("task")
    assert groups["asr"].tolist() == [row.index for row in expected if row.task == "asr"]
    np.testing.assert_array_equal(rows.seconds(), scan(expected, some).durations)
    kept = sorted(file.suffix for file in large.iterdir())
    assert kept == [".arrow", ".lock", ".lock", ".npy"]


def test_short_annotations_leave_nothing_behind(some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTA_CACHE", str(tmp_path / "kept"))
    rows = TrainingRows(str(some / "a.json"), str(some))
    assert list(rows.table) == read_annotation(some / "a.json")
    np.testing.assert_array_equal(rows.seconds(), scan(rows.table, some).durations)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("least", [1, 2**25])
def test_lines_and_columns_are_the_same_rows(
    kind: str, least: int, clips: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_rows, "LARGE_BYTES", least)
    items = json.loads((clips / "all.json").read_text())["annotation"]
    file = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        file.write_text("\n".join(map(json.dumps, items)))
    else:
        parquet.write_table(pa.Table.from_pylist(items), file)
    rows = TrainingRows(str(file), str(clips))
    assert list(rows.table) == read_annotation(clips / "all.json")
    assert len(rows.seconds()) == len(items)
    source = Source(annotation=str(file), audio_root=str(clips))
    plain = Source(annotation=str(clips / "all.json"), audio_root=str(clips))
    one, other = (TrainingBatches([each], SPEC, Augment(), 4, seed=0, buckets=2) for each in (source, plain))
    assert [one.plan[index] for index in range(9)] == [other.plan[index] for index in range(9)]


BAD: list[Any] = [
    {"path": None},
    {"path": "\0"},
    {"path": "audio/gone.wav"},
    {"path": "audio"},
    {"task": "asrr"},
    {"task": None},
    {"task": "QA"},
    {"text": 7},
    {"text": []},
    {"text": "\ud800"},
    {"texts": [""]},
    {"expand_wav": ["audio/gone.wav"]},
    {"testset_id": "test0001"},
    {"testset_id": ""},
    {"Speaker": "x"},
    "a row",
]


def test_bad_rows_anywhere_are_named_as_ever(large: Path, clips: Path, tmp_path: Path) -> None:
    """Each kind alone, and all of them at once, late in the file."""
    good = {"path": "audio/c0.wav", "text": "x", "task": "asr"}
    bad = [item if isinstance(item, str) else {**good, **item} for item in BAD]
    twice = [{**good, "testset_id": "same"}] * 2
    cases: list[list[Any]] = [*([each] for each in bad), twice, [*bad, *twice]]
    for case in cases:
        file = tmp_path / "a.json"
        file.write_text(json.dumps({"annotation": [*[good] * 50, *case, *[good] * 5]}))
        with pytest.raises(DataError) as expected:
            read_annotation(file, audio_root=clips)
        with pytest.raises(DataError) as error:
            TrainingRows(str(file), str(clips))
        assert str(error.value) == str(expected.value)
    assert len(list(large.glob("*.arrow"))) == 3  # of those whose files alone are wrong


def test_files_that_are_gone_are_noticed_though_the_table_is_kept(large: Path, some: Path) -> None:
    TrainingRows(str(some / "a.json"), str(some))
    (some / "audio" / "c2.wav").unlink()
    with pytest.raises(DataError) as error:
        TrainingRows(str(some / "a.json"), str(some))
    assert "rows 2, 7, 12, 17: there is no file" in str(error.value)
    with pytest.raises(UsageError, match=r"cannot read the annotation .*none\.jsonl: No such file"):
        TrainingRows(str(some / "none.jsonl"), str(some))
    with pytest.raises(UsageError, match="the audio root .*none is no folder"):
        TrainingRows(str(some / "a.json"), str(some / "none"))


def test_an_annotation_is_read_once_and_again_when_it_changes(
    large: Path, some: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []
    real = training_rows.stream_rows
    monkeypatch.setattr(training_rows, "stream_rows", lambda path, root: (reads.append(path), real(path, root))[1])
    file = some / "a.json"
    for _ in range(2):
        TrainingRows(str(file), str(some))
    assert len(reads) == 1
    status = file.stat()
    file.write_text(file.read_text().replace('"x"', '"y"'))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time are the same, what it holds is not
    assert TrainingRows(str(file), str(some)).table[2].text == "y"
    assert len(reads) == 2
    for kept in large.glob("*.arrow"):
        kept.write_bytes(kept.read_bytes()[:-100])
    assert TrainingRows(str(file), str(some)).table[2].text == "y"
    assert len(reads) == 3


def test_headers_are_read_once_and_those_of_changed_files_again(
    large: Path, some: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[str] = []

    def scan_and_note(rows: list[Row], root: str) -> Any:
        scanned.extend(row.path for row in rows)
        return scan(rows, root)

    monkeypatch.setattr(training_rows, "scan", scan_and_note)
    first = TrainingRows(str(some / "a.json"), str(some)).seconds()
    assert len(scanned) == 5  # rows of the same files are looked at once
    scanned.clear()
    np.testing.assert_array_equal(TrainingRows(str(some / "a.json"), str(some)).seconds(), first)
    assert not scanned
    shutil.copy(some / "audio" / "c4.wav", some / "audio" / "c1.wav")
    changed = TrainingRows(str(some / "a.json"), str(some)).seconds()
    assert sorted(scanned) == ["audio/c1.wav", "audio/c3.wav"]  # that of row 3 is joined with it
    np.testing.assert_array_equal(changed, scan(read_annotation(some / "a.json"), some).durations)
    for kept in large.glob("*.npy"):
        kept.write_bytes(b"no")
    np.testing.assert_array_equal(TrainingRows(str(some / "a.json"), str(some)).seconds(), changed)


def in_child(work: Callable[[], None]) -> int:
    """How a process of its own that does this ends."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def test_a_process_killed_in_the_middle_leaves_nothing_half(
    large: Path, some: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training_rows.write_batches

    def killed(batches: Any, file: Path) -> None:
        def some_of_them() -> Any:
            yield next(batches)
            yield next(batches)
            os.kill(os.getpid(), signal.SIGKILL)

        real(some_of_them(), file)

    with monkeypatch.context() as patched:
        patched.setattr(training_rows, "write_batches", killed)
        ended = in_child(lambda: TrainingRows(str(some / "a.json"), str(some)) and None)
    assert os.WTERMSIG(ended) == signal.SIGKILL
    assert not list(large.glob("*.arrow"))
    assert len(list(large.glob(".*.part"))) == 1
    assert list(TrainingRows(str(some / "a.json"), str(some)).table) == read_annotation(some / "a.json")
    assert not list(large.glob(".*.part"))


def test_a_folder_that_cannot_be_written_is_named_with_its_remedy(
    large: Path, some: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NOTA_CACHE", str(tmp_path / "file"))
    with pytest.raises(NotaError, match=r"cannot write .*file/rows, .* environment variable NOTA_CACHE"):
        TrainingRows(str(some / "a.json"), str(some))


class ListPool:
    """What training drew from when its rows were a list: the reference for the order."""

    in_order = False

    def __init__(self, source: Source) -> None:
        self.source, self.rows = source, read_annotation(source.annotation)
        durations = scan(self.rows, source.audio_root).durations
        self.durations = [SPEC.max_seconds if seconds is None else seconds for seconds in durations]
        self.mates: dict[str | None, list[int]] = {}
        for number, row in enumerate(self.rows):
            self.mates.setdefault(row.speaker, []).append(number)

    def pick(self, rng: Generator, number: int) -> tuple[int, ...]:
        row = int(rng.integers(len(self.rows)))
        if self.source.join == 1:
            return (row,)
        mates = self.mates[self.rows[row].speaker]
        count = int(rng.integers(1, self.source.join + 1))
        return (row, *(mates[rng.integers(len(mates))] for _ in range(count - 1)))

    def seconds(self, rows: tuple[int, ...]) -> float:
        gap = sum(self.source.gap_seconds) / 2 * (len(rows) + 1) if self.source.join > 1 else 0.0
        longest = min(SPEC.max_seconds, self.source.crop_seconds or SPEC.max_seconds)
        return min(max(sum(self.durations[row] for row in rows) + gap, 1.0), longest)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("way", [{}, {"buckets": 4}, {"buckets": 4, "batch_seconds": 9.0}])
def test_the_order_is_that_of_a_list_of_rows(
    way: dict[str, Any], kept: bool, clips: Path, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit by bit, so that a run begun with lists resumes with a table."""
    if not kept:
        monkeypatch.setattr(training_rows, "LARGE_BYTES", 2**25)
    rows = json.loads((clips / "all.json").read_text())["annotation"] * 8
    spoken = [{**row, "speaker": f"s{number % 3}", "testset_id": None} for number, row in enumerate(rows)]
    (tmp_path / "many.json").write_text(json.dumps({"annotation": spoken}))
    many = {"annotation": str(tmp_path / "many.json"), "audio_root": str(clips)}
    sources = [
        Source.model_validate({**many, "join": 3, "weight": 2.0}),
        Source.model_validate({**many, "crop_seconds": 2.0, "mix_same_label": 0.0}),
    ]
    batches = TrainingBatches(sources, SPEC, Augment(), 5, seed=3, **way)
    reference = BatchPlan([ListPool(source) for source in sources], [2.0, 1.0], 5, 3, **way)
    for index in range(25):
        assert batches.plan[index] == reference[index]
        assert all(type(row) is int for draw in batches.plan[index] for row in draw.rows)


def test_batches_of_a_kept_table_are_those_of_a_list(clips: Path, large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partners of a label, backgrounds and texts too, which are drawn as a clip is made."""

    def batches() -> list[Any]:
        more = {"background": str(clips / "all.json"), "background_root": str(clips), "background_probability": 0.7}
        sources = [{"annotation": "aac", "mix_same_label": 0.9}, {"annotation": "asr", "join": 2, **more}]
        made = [
            Source.model_validate({"audio_root": str(clips), **each, "annotation": str(clips / f"{name}.json")})
            for each in sources
            for name in [each["annotation"]]
        ]
        every = TrainingBatches(made, SPEC, Augment(noise=0.5), 4, seed=1)
        return [every[index] for index in range(4)]

    kept = batches()
    assert len(list(large.glob("*.arrow"))) == 3
    monkeypatch.setattr(training_rows, "LARGE_BYTES", 2**25)
    for one, other in zip(kept, batches(), strict=True):
        assert (one.texts, one.names, one.labels) == (other.texts, other.names, other.labels)
        assert torch.equal(one.features.log_mel, other.features.log_mel)
