"""`nota infer` and what may happen to it: kills, changes, bad audio, a full disk, dead workers."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.runs import finished_rows, report, signal_itself, texts
from nota_cli.inference.journal import journal_path
from nota_cli.submission import validate

Run = Callable[..., int]


def test_the_report_tells_what_was_done(nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    arguments = ["--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json", "--batch-size", 3]
    assert nota("infer", *arguments, "--out", out) == 0
    found = report(out)
    assert (found["rows"], found["answered"], found["computed_rows"], found["resumed_rows"]) == (5, 5, 5, 0)
    assert found["audio_seconds"] == pytest.approx(1.2 + 0.4 + 2.3 + 1.7 + 3.1, abs=0.01)
    assert found["real_time_factor"] > 0
    assert set(found["stages"]) >= {"scan", "load", "wait_for_features", "encode_and_generate", "write"}
    assert sum(found["stages"].values()) <= found["seconds"] + 0.01
    assert (found["batch_size"], found["halvings"], found["processes"], found["device"]) == (3, 0, 1, "cpu")
    assert (found["blank"], found["skipped"], found["looped"], found["cut"]) == ([], [], [], [])
    assert found["recipe"]["name"] == "random"
    assert set(found["checkpoint"]["files"]["checkpoint"]) >= {"model.safetensors", "decoder/model.safetensors"}
    assert {"nota", "torch", "transformers"} <= set(found["versions"])
    assert not journal_path(out).exists()


def test_a_killed_run_goes_on_with_what_is_missing(
    nota: Run, start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(60), "--batch-size", 2, "--workers", 1]
    assert nota(*arguments, "--out", whole) == 0
    rng = random.Random(4)
    kept, journal = 0, journal_path(out)
    for _ in range(4):
        goal = kept + rng.randrange(2, 8)
        # Killed at any moment from then on, but not behind the last row, wherever this process is kept waiting.
        run = start(*arguments, "--out", out, prepare=signal_itself(goal + 4, signal.SIGSTOP))
        run.until(lambda goal=goal: finished_rows(journal) >= goal)
        run.kill()
        assert not out.exists()
        kept = finished_rows(journal)
        lines = journal.read_bytes().splitlines()[1 : kept + 1]
        assert len({json.loads(line)["row"] for line in lines}) == kept  # none twice
    assert nota(*arguments, "--out", out) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert (report(out)["resumed_rows"], report(out)["computed_rows"]) == (kept, 60 - kept)
    assert not journal.exists()


def test_a_run_that_was_killed_behind_its_last_row_loads_nothing(
    nota: Run,
    many: Callable,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(6), "--out", out]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nota_cli.inference.run.write_submission", killed)
        assert nota(*arguments) != 0
    assert finished_rows(journal_path(out)) == 6
    capsys.readouterr()
    assert nota(*arguments) == 0
    said = capsys.readouterr().err
    assert "6 of 6 rows were finished before" in said
    assert "recipe random on" not in said
    assert len(texts(out)) == 6


@pytest.fixture
def unfinished(start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path) -> list[object]:
    """The arguments of a run that was cut, over a checkpoint of its own."""
    own = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, own)
    arguments = ["infer", "--checkpoint", own, "--annotation", many(30), "--batch-size", 1, "--out", tmp_path / "o.csv"]
    assert start(*arguments, prepare=signal_itself(2, signal.SIGKILL)).wait() == -signal.SIGKILL
    return arguments


def test_what_changed_since_is_refused_by_name_until_restart(
    nota: Run, unfinished: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = journal_path(tmp_path / "o.csv")
    kept = journal.read_bytes()

    def refused(*said: str, more: tuple[object, ...] = ()) -> None:
        capsys.readouterr()
        assert nota(*unfinished, *more) == 2
        message = capsys.readouterr().err
        assert all(words in message for words in (*said, "--restart")), message
        assert journal.read_bytes() == kept

    refused("recipe.generate.max_new_tokens: it was 6, it is 7", more=("--set", "generate.max_new_tokens=7"))
    refused("limit: it was null, it is 3", more=("--limit", 3))
    refused("long: it was cut, it is chunk", more=("--long", "chunk"))
    weights = tmp_path / "checkpoint" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused("weights.checkpoint.model.safetensors: it was")
    weights.write_bytes(whole)
    annotation = tmp_path / "data" / "rows.json"
    written = annotation.read_text()
    annotation.write_text(written.replace("test0129", "test0130"))
    refused("annotation: it was")
    assert nota(*unfinished, "--restart") == 0
    assert report(tmp_path / "o.csv")["resumed_rows"] == 0
    assert list(texts(tmp_path / "o.csv"))[-1] == "test0130"


def test_what_changes_no_text_may_change(nota: Run, unfinished: list[object], tmp_path: Path) -> None:
    os.utime(tmp_path / "checkpoint" / "model.safetensors")
    more = ["--batch-size", 8, "--workers", 0, "--set", "train.steps=9", "--on-error", "skip"]
    assert nota(*unfinished, *more) == 0
    assert report(tmp_path / "o.csv")["resumed_rows"] >= 2


def test_two_runs_do_not_write_to_one_file(
    nota: Run,
    start: Callable,
    many: Callable,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(60), "--batch-size", 1, "--out", out]
    run = start(*arguments, prepare=signal_itself(1, signal.SIGSTOP))
    run.until_stopped()
    assert nota(*arguments) == 2
    assert "another nota infer is writing there" in capsys.readouterr().err
    os.kill(run.pid, signal.SIGCONT)
    assert run.wait() == 0
    assert len(texts(out)) == 60


BAD = {7: "not there", 12: "no sound"}


def spoil(annotation: Path) -> None:
    (annotation.parent / "audio" / "7.wav").unlink()
    bad = annotation.parent / "audio" / "12.wav"
    bad.unlink()
    bad.write_text("no sound\n" * 20)


def test_stop_names_every_bad_row_before_anything_is_loaded(
    nota: Run, many: Callable, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation = many(15)
    spoil(annotation)
    out = tmp_path / "out" / "o.csv"
    assert nota("infer", "--checkpoint", tiny_checkpoint, "--annotation", annotation, "--out", out) == 1
    said = capsys.readouterr().err
    for words in (
        "2 rows have audio that cannot be used",
        "row 7",
        "test0107",
        "7.wav",
        "row 12",
        "test0112",
        "--on-error blank",
    ):
        assert words in said
    assert "recipe random on" not in said
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("wish", ["blank", "skip"])
def test_bad_rows_are_filled_in_or_left_out_and_named(
    wish: str, nota: Run, many: Callable, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation, out = many(15), tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", annotation, "--out", out]
    assert nota(*arguments) == 0
    expected = texts(out)
    spoil(annotation)
    capsys.readouterr()
    assert nota(*arguments, "--on-error", wish, "--set", "generate.fallback_text=nothing heard") == 0
    said = capsys.readouterr().err
    assert all(words in said for words in ("row 7", "test0107", "row 12", "test0112"))
    assert f"cannot be used and {'get the fallback text' if wish == 'blank' else 'are left out'}:" in said
    found, told = texts(out), report(out)["blank" if wish == "blank" else "skipped"]
    for row in BAD:
        expected.pop(f"test{100 + row:04d}")
        if wish == "blank":
            assert found.pop(f"test{100 + row:04d}") == "nothing heard"
    assert found == expected
    assert [(bad["row"], bad["id"]) for bad in told] == [(7, "test0107"), (12, "test0112")]
    assert all(bad["reason"] for bad in told)
    assert bool(validate(out, annotation)) == (wish == "skip")


@pytest.mark.parametrize("wish", ["stop", "blank", "skip"])
def test_a_file_that_vanishes_while_the_run_goes_on(
    wish: str,
    nota: Run,
    many: Callable,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import nota_cli.inference.run as command

    annotation, out = many(15), tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", annotation, "--out", out]
    arguments += ["--batch-size", 2, "--workers", 0]
    assert nota(*arguments) == 0
    expected = texts(out)
    out.unlink()
    load = command.load
    file = annotation.parent / "audio" / "10.wav"  # 1.2 s, in the middle

    def late(*given: object) -> object:
        file.rename(tmp_path / "away.wav")
        return load(*given)

    monkeypatch.setattr(command, "load", late)
    code = nota(*arguments, "--on-error", wish)
    said = capsys.readouterr().err
    assert "10.wav" in said
    assert "row 10" in said
    if wish == "stop":
        assert code == 1
        assert "Traceback" not in said
        assert not out.exists()
        kept = finished_rows(journal_path(out))
        assert kept >= 4
        monkeypatch.setattr(command, "load", load)
        (tmp_path / "away.wav").rename(file)
        assert nota(*arguments) == 0
        assert report(out)["resumed_rows"] == kept
        assert texts(out) == expected
    else:
        assert code == 0
        found = texts(out)
        assert found.pop("test0110", None) == ("inaudible" if wish == "blank" else None)
        expected.pop("test0110")
        assert found == expected
        assert [bad["row"] for bad in report(out)["blank" if wish == "blank" else "skipped"]] == [10]


def test_a_run_that_stopped_may_go_on_without_the_bad_rows(
    nota: Run, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    annotation, out = many(15), tmp_path / "o.csv"
    spoil(annotation)
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", annotation, "--out", out]
    assert nota(*arguments) == 1
    assert nota(*arguments, "--on-error", "blank") == 0
    assert len(texts(out)) == 15
    assert nota(*arguments, "--on-error", "skip") == 0
    assert len(texts(out)) == 13


def test_a_dead_worker_is_an_error_with_a_remedy_and_loses_nothing(
    nota: Run, start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(80), "--batch-size", 1, "--out", out]
    run = start(*arguments, "--workers", 2, prepare=signal_itself(3, signal.SIGSTOP))
    run.until_stopped()
    for worker in run.children():
        os.kill(worker, signal.SIGKILL)
    os.kill(run.pid, signal.SIGCONT)
    assert run.wait() == 1
    assert "a process that decodes audio died" in run.said()
    assert "--workers" in run.said()
    assert "Traceback" not in run.said()
    kept = finished_rows(journal_path(out))
    assert kept >= 3
    assert nota(*arguments) == 0
    assert (report(out)["resumed_rows"], len(texts(out))) == (kept, 80)


@pytest.mark.parametrize("room", [4_000, 9_000])
def test_a_full_disk_ends_the_run_with_its_rows_kept(
    room: int, nota: Run, start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import resource

    whole, out = tmp_path / "whole.csv", tmp_path / "o.csv"
    arguments = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", many(60), "--batch-size", 3]
    assert nota(*arguments, "--out", whole) == 0
    run = start(*arguments, "--out", out, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    assert run.wait() == 1
    assert "cannot write" in run.said()
    assert "Traceback" not in run.said()
    assert not out.exists()
    kept = finished_rows(journal_path(out))
    assert kept > 0
    assert kept % 3 == 0
    assert journal_path(out).read_bytes().endswith(b"\n")
    assert nota(*arguments, "--out", out) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert report(out)["resumed_rows"] == kept


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch-size", "0"], "auto or a number"),
        (["--batch-size", "many"], "auto or a number"),
        (["--on-error", "ignore"], "stop, blank, skip"),
        (["--long", "split"], "cut, chunk"),
    ],
)
def test_wrong_values_are_exit_2(
    arguments: list[str], said: str, nota: Run, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("infer", "--annotation", clips / "all.json", "--out", tmp_path / "x.csv", *arguments) == 2
    words = capsys.readouterr().err.replace("│", " ").replace("'", "").split()  # as a narrow terminal has it
    assert said in " ".join(words)
