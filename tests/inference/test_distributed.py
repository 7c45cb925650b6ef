"""Several processes that share a run, forked here with what a launcher would set."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from helpers.ranks import environment, impatient
from helpers.runs import finished_rows, report, signal_itself
from nota_cli.errors import NotaError, UsageError
from nota_cli.inference import distributed as module
from nota_cli.inference.distributed import Ranks
from nota_cli.inference.journal import journal_path

Run = Callable[..., int]


@pytest.fixture
def pair(start: Callable, port: int) -> Callable[..., list]:
    """Start so many processes of one run."""

    def begin(*arguments: object, world: int = 2, prepare: Callable[[int], None] = lambda rank: None) -> list:
        return [
            start(*arguments, env=environment(rank, world, port), prepare=partial(prepare, rank))
            for rank in range(world)
        ]

    return begin


@pytest.mark.parametrize("world", [2, 3])
def test_many_processes_write_the_csv_of_one(
    world: int, nota: Run, pair: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    alone, out = tmp_path / "alone.csv", tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(31), "--batch-size", 3]
    assert nota(*arguments, "--out", alone) == 0
    runs = pair(*arguments, "--out", out, world=world)
    assert [run.wait() for run in runs] == [0] * world, [run.said() for run in runs]
    assert out.read_bytes() == alone.read_bytes()
    assert (report(out)["processes"], report(out)["computed_rows"]) == (world, 31)
    assert report(out)["heard_seconds"] == report(alone)["heard_seconds"]
    assert sorted(path.name for path in tmp_path.glob("o.*")) == ["o.csv", "o.run.json"]
    assert "Inference" in runs[0].said()
    assert "Inference" not in runs[1].said()


def test_more_processes_than_rows(
    nota: Run, pair: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.csv"
    runs = pair("infer", "--checkpoint", tiny_checkpoint, "--annotation", many(2), "--out", out, world=3)
    assert [run.wait() for run in runs] == [0, 0, 0], [run.said() for run in runs]
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_ranks_rows_are_kept_and_finished_by_any_number_of_processes(
    lost: int, nota: Run, pair: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    alone, out = tmp_path / "alone.csv", tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(50), "--batch-size", 1]
    assert nota(*arguments, "--out", alone) == 0

    def prepare(rank: int) -> None:
        impatient()
        if rank == lost:
            signal_itself(3, signal.SIGKILL)()

    runs = pair(*arguments, "--out", out, prepare=prepare)
    journals = [journal_path(out), journal_path(out, 1)]
    assert runs[lost].wait() == -signal.SIGKILL
    assert runs[1 - lost].wait() == 1
    assert "the same command goes on" in runs[1 - lost].said()
    assert "Traceback" not in runs[1 - lost].said()
    assert not out.exists()
    kept = sum(map(finished_rows, journals))
    assert kept >= 3
    assert nota(*arguments, "--out", out) == 0  # one process now
    assert out.read_bytes() == alone.read_bytes()
    assert (report(out)["resumed_rows"], report(out)["computed_rows"]) == (kept, 50 - kept)
    assert not any(path.exists() for path in journals)


def test_a_rank_that_fails_stops_the_others_with_its_reason(
    pair: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    annotation, out = many(80), tmp_path / "o.csv"
    (annotation.parent / "audio" / "0.wav").unlink()
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", annotation, "--batch-size", 1, "--out", out]
    runs = pair(*arguments)
    assert [run.wait() for run in runs] == [1, 1]
    assert "row 0" in runs[0].said()
    assert "rank 1 stops because rank 0 did: 1 row has audio that cannot be used" in runs[1].said()
    assert "Traceback" not in runs[0].said() + runs[1].said()


@pytest.mark.parametrize("other", ["annotation", "weights", "recipe"])
def test_a_rank_with_other_files_is_refused(
    other: str, start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path, port: int
) -> None:
    """As on two machines, each with its own copy; elsewhere another audio root would be no difference."""
    annotation = many(8)
    content = json.loads(annotation.read_text())
    mirror = shutil.copytree(annotation.parent, tmp_path / "mirror")
    own = shutil.copytree(tiny_checkpoint, tmp_path / "own")
    more: list[object] = []
    if other == "annotation":
        content["annotation"].reverse()
        (mirror / "rows.json").write_text(json.dumps(content))
    elif other == "weights":
        weights = own / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    else:
        more = ["--set", "generate.max_new_tokens=3"]
    places = [(tiny_checkpoint, annotation, []), (own, mirror / "rows.json", more)]
    runs = [
        start(
            *("infer", "--checkpoint", checkpoint, "--annotation", rows, "--out", tmp_path / "o.csv", *settings),
            env=environment(rank, 2, port),
        )
        for rank, (checkpoint, rows, settings) in enumerate(places)
    ]
    assert runs[1].wait() == 2
    assert runs[0].wait() == 1
    said = {"annotation": "annotation: it was", "weights": "model.safetensors: it was", "recipe": "it was 6, it is 3"}
    assert said[other] in runs[1].said()
    assert "rank 0 stops because rank 1 did" in runs[0].said()
    assert not (tmp_path / "o.csv").exists()


def test_machines_may_keep_the_same_files_elsewhere(
    nota: Run, start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path, port: int
) -> None:
    annotation, alone, out = many(8), tmp_path / "alone.csv", tmp_path / "o.csv"
    mirror = shutil.copytree(annotation.parent, tmp_path / "mirror") / "rows.json"
    own = shutil.copytree(tiny_checkpoint, tmp_path / "own")
    assert nota("infer", "--checkpoint", own, "--annotation", mirror, "--out", alone) == 0
    runs = [
        start(
            *("infer", "--checkpoint", checkpoint, "--annotation", rows, "--out", out),
            env=environment(rank, 2, port),
        )
        for rank, (checkpoint, rows) in enumerate([(tiny_checkpoint, annotation), (own, mirror)])
    ]
    assert [run.wait() for run in runs] == [0, 0], [run.said() for run in runs]
    assert out.read_bytes() == alone.read_bytes()


def test_a_wrong_environment_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="RANK and MASTER_ADDR and MASTER_PORT not what torchrun sets"):
        Ranks.from_environment()
    for name, value in {"RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "xx"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="MASTER_PORT not what"):
        Ranks.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "abc")
    with pytest.raises(UsageError, match="WORLD_SIZE is abc, and WORLD_SIZE and MASTER_PORT not"):
        Ranks.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Ranks.from_environment().world == 1


def test_processes_that_do_not_meet(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for name, value in environment(1, 2, port).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module, "MEET_SECONDS", 1.0)
    with pytest.raises(NotaError, match="rank 1 of 2 does not find the others"):
        Ranks.from_environment()


def test_under_torchrun(nota: Run, many: Callable, tiny_checkpoint: Path, tmp_path: Path, port: int) -> None:
    alone, out = tmp_path / "alone.csv", tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(9), "--batch-size", 2]
    assert nota(*arguments, "--out", alone) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1"]
    launcher += ["--master_port", str(port), "-m", "nota_cli.cli", *map(str, arguments), "--out", str(out)]
    done = subprocess.run(launcher, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == alone.read_bytes()
    assert report(out)["processes"] == 2
