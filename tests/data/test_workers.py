"""Items made by other processes: the same values, whatever memory is at hand, and nothing left behind."""

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nota_cli.data.annotation import read_annotation
from nota_cli.data.row_batches import RowBatches, loader, tolerant_loader
from nota_cli.data.workers import prefetch
from nota_cli.errors import DataError, NotaError
from nota_cli.features.batch import FeatureSpec

SHAPES = [(3, 80, 1000), (0, 5), (7,), (2, 40_001), (1,)]


def item(index: int) -> dict[str, object]:
    """Arrays of many types and sizes, one of them not contiguous, and other things."""
    rng = np.random.default_rng(index)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    return {
        "arrays": tuple(arrays),
        "odd": (rng.integers(0, 9, 33_333, dtype=np.int8), arrays[0][:, ::2].T, np.array([index])),
        "text": f"clip {index}",
    }


def check(found: list[dict[str, object]], order: list[int]) -> None:
    for mine, index in zip(found, order, strict=True):
        expected = item(index)
        assert mine["text"] == expected["text"]
        for name in ("arrays", "odd"):
            for one, other in zip(mine[name], expected[name], strict=True):
                assert one.dtype == other.dtype
                np.testing.assert_array_equal(one, other)
                assert one.flags.writeable or not one.size  # as what is made in this process


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_arrays_come_over_as_they_were(workers: int) -> None:
    order = [5, 0, 3, 3, 1, 2]
    check(list(prefetch(item, order, workers)), order)


def fails(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("lacking", ["call", "memory", "writing"])
def test_without_memory_to_share_they_come_through_a_pipe(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if lacking == "call":
        monkeypatch.delattr(os, "memfd_create")
    elif lacking == "memory":
        monkeypatch.setattr(os, "memfd_create", fails)
    else:
        monkeypatch.setattr("nota_cli.data.workers._write", fails)
    order = [2, 0, 1]
    check(list(prefetch(item, order, 1)), order)


def test_arrays_outlive_the_worker_and_no_file_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))
    found = list(prefetch(item, range(4), 1))
    assert not multiprocessing.active_children()
    check(found, list(range(4)))
    del found
    assert (len(os.listdir("/proc/self/fd")), set(os.listdir("/dev/shm"))) == before


def test_a_worker_that_is_killed_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of what it had made, and not handed over."""
    stream = prefetch(item, range(50), 1)
    next(stream)
    time.sleep(0.5)  # it works ahead
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(NotaError, match="a process that decodes audio died"):
        list(stream)


def stops(index: int) -> int:
    if index == 2:
        time.sleep(600)
    return index


def test_a_worker_that_is_stuck_is_given_up() -> None:
    stream = prefetch(stops, range(4), 1, timeout=5)  # in which a busy machine starts a worker
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(NotaError, match=r"timed out after 5 seconds.*raise train\.timeout_minutes"):
        next(stream)
    assert not multiprocessing.active_children()


def refuses(index: int) -> dict[str, object]:
    if index == 2:
        raise DataError("clip 2 is bad")
    return item(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_in_its_turn(workers: int) -> None:
    stream = prefetch(refuses, [0, 1, 2, 3], workers)
    check([next(stream), next(stream)], [0, 1])
    with pytest.raises(DataError, match="clip 2 is bad"):
        next(stream)


@pytest.mark.parametrize("pad", ["30s", "clip"])
@pytest.mark.parametrize("front_end", ["beats", None])
def test_batches_are_those_of_this_process(front_end: str | None, pad: str, clips: Path) -> None:
    rows = read_annotation(clips / "all.json")
    batches = RowBatches(rows, [[0, 1], [4, 2, 3]], clips, FeatureSpec(80, front_end, pad, 30.0))
    for found, expected in zip(loader(batches, [1, 0], 1), [batches[1], batches[0]], strict=True):
        for name in ("log_mel", "log_mel_lengths", "fbank", "fbank_lengths"):
            values = getattr(found.features, name), getattr(expected.features, name)
            assert values == (None, None) if values[1] is None else torch.equal(*values)
        assert (found.texts, found.queries, found.rows) == (expected.texts, expected.queries, expected.rows)


def test_waveforms_come_over_too(clips: Path) -> None:
    rows = read_annotation(clips / "all.json")
    spec = FeatureSpec(80, None, "clip", 30.0, device=torch.device("cpu"))
    batches = RowBatches(rows, [[4, 2, 3]], clips, spec)
    (found,) = tolerant_loader(batches, [0], 1)
    for one, other in zip(found.waves, batches.decode(0).waves, strict=True):
        np.testing.assert_array_equal(one, other)
