"""What `nota infer` writes: rows of one task, warnings of its validator, over no other run, on after a move."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.ranks import environment
from helpers.runs import report, signal_itself, texts
from nota_cli.inference.outputs import check_submission
from nota_cli.submission import READ_AS_NAN, write_submission

Run = Callable[..., int]


@pytest.fixture
def mixed(many: Callable) -> Path:
    """Thirty rows, every second one of another task, every third without an id, the last two without a task."""
    file = many(30)
    rows = json.loads(file.read_text())["annotation"]
    for index, row in enumerate(rows):
        row["task"] = ("audiocaption_v2", "asr")[index % 2]
        if index % 3 == 0:
            del row["testset_id"]
    for row in rows[-2:]:
        del row["task"]
    file.write_text(json.dumps({"annotation": rows}))
    return file


def ids(file: Path, task: str | None) -> list[str]:
    rows = json.loads(file.read_text())["annotation"]
    own = [(index, row) for index, row in enumerate(rows) if task is None or row.get("task", task) == task]
    return [row.get("testset_id", f"test{index:04d}") for index, row in own]


def test_a_task_means_the_rows_of_that_task(
    nota: Run, mixed: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", mixed]
    assert nota(*run, "--task", "asr", "--out", tmp_path / "asr.csv") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"16 of the 30 rows of {mixed} are of task asr" in said
    assert list(texts(tmp_path / "asr.csv")) == ids(mixed, "asr")
    assert nota(*run, "--task", "aac", "--out", tmp_path / "aac.csv") == 0
    assert list(texts(tmp_path / "aac.csv")) == ids(mixed, "audiocaption_v2")
    assert nota("validate-submission", "--asr", tmp_path / "asr.csv", "--annotation", mixed) == 0
    assert nota("score", tmp_path / "asr.csv", "--annotation", mixed, "--task", "asr") == 0
    assert nota(*run, "--task", "asr", "--limit", 3, "--out", tmp_path / "three.csv") == 0
    assert list(texts(tmp_path / "three.csv")) == ids(mixed, "asr")[:3]
    capsys.readouterr()
    rows = json.loads(mixed.read_text())["annotation"][:-2]
    mixed.write_text(json.dumps({"annotation": rows}))
    assert nota(*run, "--task", "qa", "--out", tmp_path / "qa.csv") == 1
    assert "none of its 28 rows belongs to task qa (there: aac, asr)" in capsys.readouterr().err


def test_without_a_task_all_rows_are_run(nota: Run, clips: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json"]
    assert nota(*run, "--out", tmp_path / "all.csv") == 0
    assert list(texts(tmp_path / "all.csv")) == [f"test{index:04d}" for index in range(5)]
    assert nota(*run, "--task", "asr", "--out", tmp_path / "asr.csv") == 0
    whole = texts(tmp_path / "all.csv")
    assert texts(tmp_path / "asr.csv") == {name: whole[name] for name in ("test0001", "test0003")}


@pytest.mark.parametrize("on_error", ["skip", "blank"])
def test_bad_recordings_of_a_mixed_annotation_are_those_of_the_right_rows(
    on_error: str, nota: Run, mixed: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    rows = json.loads(mixed.read_text())["annotation"]
    (mixed.parent / rows[5]["path"]).unlink()  # of the task
    (mixed.parent / rows[6]["path"]).unlink()  # of another one: not looked at
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", mixed, "--task", "asr"]
    assert nota(*run, "--on-error", on_error, "--out", tmp_path / "o.csv") == 0
    name = rows[5]["testset_id"]
    told = report(tmp_path / "o.csv")["skipped" if on_error == "skip" else "blank"]
    assert [(row["row"], row["id"]) for row in told] == [(5, name)]
    written = texts(tmp_path / "o.csv")
    assert list(written) == [known for known in ids(mixed, "asr") if on_error == "blank" or known != name]
    assert written.get(name) == (None if on_error == "skip" else "inaudible")


def test_processes_and_resumed_runs_keep_to_the_task(
    nota: Run,
    start: Callable,
    mixed: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    port: int,  # noqa: F811
) -> None:
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", mixed, "--task", "asr", "--batch-size", 1]
    alone, out, cut = (tmp_path / name for name in ("alone.csv", "o.csv", "cut.csv"))
    assert nota(*run, "--out", alone) == 0
    both = [start(*run, "--out", out, env=environment(rank, 2, port)) for rank in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    assert out.read_bytes() == alone.read_bytes()
    killed = start(*run, "--out", cut, prepare=signal_itself(2, signal.SIGKILL))
    assert killed.wait() == -signal.SIGKILL
    assert nota(*run, "--out", cut) == 0
    assert cut.read_bytes() == alone.read_bytes()
    assert report(cut)["resumed_rows"] >= 2


def test_what_the_validator_finds_is_a_warning_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"test{index:04d}", text) for index, text in enumerate(sorted(READ_AS_NAN - {""}))]
    rows += [("dog.wav", "a dog barks"), ("test1", "rain"), ("test0100", "one"), ("test0100", "two"), ("test0200", "")]
    rows += [("test0300", "bell\a rings"), ("test0301", "rain falls</s>"), ("test0302", "USER: hello")]
    rows += [("test0303", "no no no no no no no no no no no no")]
    write_submission(tmp_path / "o.csv", rows)
    found = check_submission(tmp_path / "o.csv", "asr")
    said = " ".join(capsys.readouterr().err.split())
    assert not found["valid"]
    assert found["counts"]["nan-text"] == len(READ_AS_NAN) - 1
    for code, count in found["counts"].items():
        if code != "empty-text":
            assert f"warning: {code}: " in said
            assert count == 1 or f"and {count - 1} more like it" in said
    kinds = {"nan-text", "bad-id", "duplicate-id", "control-character", "special-token", "prompt-leak", "loop"}
    assert kinds <= found["counts"].keys()


@pytest.mark.parametrize("text", ["null", "nan", "None", "N/A"])
def test_a_text_that_pandas_reads_as_missing_is_written_and_told(
    text: str, nota: Run, clips: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"path": "nowhere.wav", "task": "asr"}, {"path": "audio/c1.wav", "task": "asr", "testset_id": "odd id"}]
    (tmp_path / "rows.json").write_text(json.dumps({"annotation": rows}))
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", tmp_path / "rows.json", "--audio-root", clips]
    run += ["--on-error", "blank", "--set", f"generate.fallback_text='{text}'", "--out", tmp_path / "o.csv"]
    assert nota(*run) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"nan-text: test0000 has the text '{text}'" in said
    assert "bad-id: the id 'odd id'" in said
    assert texts(tmp_path / "o.csv")["test0000"] == text
    counts = report(tmp_path / "o.csv")["validation"]["counts"]
    assert (counts["nan-text"], counts["bad-id"]) == (1, 1)
    assert nota("validate-submission", tmp_path / "o.csv") == 1


def test_a_finished_csv_is_replaced_by_its_own_run_alone(
    nota: Run, clips: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.csv"
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json", "--out", out]
    assert nota(*run) == 0
    whole = out.read_bytes()
    others = [["--limit", 1], ["--task", "asr"], ["--set", "generate.max_new_tokens=2"], ["--load-format", "dummy"]]
    for more in (*others, ["--limit", 1, "--restart"]):
        capsys.readouterr()
        assert nota(*run, *more) == 2
        assert "--overwrite" in capsys.readouterr().err
        assert out.read_bytes() == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv", "o.run.json"]
    assert nota(*run, "--batch-size", 2) == 0  # the same run
    assert out.read_bytes() == whole
    out.write_bytes(whole.replace(b"test0000", b"test9999"))
    assert nota(*run) == 2
    assert "has been changed" in capsys.readouterr().err
    (tmp_path / "o.run.json").unlink()
    assert nota(*run) == 2
    assert nota(*run, "--limit", 1, "--overwrite") == 0
    assert len(texts(out)) == 1
    out.write_text("")  # as mktemp makes it: nothing is lost
    assert nota(*run) == 0
    assert out.read_bytes() == whole


@pytest.fixture
def moved(start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of a run that was cut, renamed since: annotation, recordings and the CSV's journal."""
    folder = many(30).parent
    run = start(
        "infer", "--checkpoint", tiny_checkpoint, "--annotation", folder / "rows.json", "--batch-size", 1,
        "--out", folder / "o.csv", prepare=signal_itself(2, signal.SIGKILL),
    )  # fmt: skip
    assert run.wait() == -signal.SIGKILL
    return folder.rename(tmp_path / "renamed")


def test_a_folder_that_was_renamed_keeps_its_rows(nota: Run, moved: Path, tiny_checkpoint: Path) -> None:
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", moved / "rows.json", "--out", moved / "o.csv"]
    assert nota(*run) == 0
    assert report(moved / "o.csv")["resumed_rows"] >= 2


def test_recordings_that_were_copied_go_on_by_a_word(
    nota: Run, moved: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(moved / "audio", tmp_path / "elsewhere" / "audio", copy_function=shutil.copyfile)
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", moved / "rows.json", "--out", moved / "o.csv"]
    run += ["--audio-root", tmp_path / "elsewhere"]
    assert nota(*run) == 2
    said = capsys.readouterr().err
    assert "audio_root: it was" in said
    assert "--audio-root-moved" in said
    assert nota(*run, "--audio-root-moved", "--limit", 3) == 2  # all else must be the same
    assert nota(*run, "--audio-root-moved") == 0
    assert report(moved / "o.csv")["resumed_rows"] >= 2


def test_a_recording_that_was_mended_where_it_lies_changes_nothing(
    nota: Run, start: Callable, many: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    annotation, out = many(30), tmp_path / "o.csv"
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", annotation, "--batch-size", 1, "--out", out]
    cut = start(*run, prepare=signal_itself(2, signal.SIGKILL))
    assert cut.wait() == -signal.SIGKILL
    os.utime(annotation.parent / "audio" / "29.wav")
    assert nota(*run) == 0
    assert report(out)["resumed_rows"] >= 2


def test_a_finished_run_given_again_loads_no_model(
    nota: Run,
    many: Callable,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, out = many(3).parent, tmp_path / "finished" / "o.csv"
    run = ["infer", "--checkpoint", tiny_checkpoint, "--annotation", folder / "rows.json", "--out", out]
    assert nota(*run) == 0
    whole, first = out.read_bytes(), report(out)

    def refuse(*_: object) -> None:
        raise AssertionError("a model is loaded")

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("nota_cli.inference.run.load", refuse)
        assert nota(*run, "--batch-size", 2) == 0
        assert "all 3 rows are there already; --overwrite computes them anew" in " ".join(
            capsys.readouterr().err.split()
        )
        assert (out.read_bytes(), report(out)) == (whole, first)
        for flag in ("--overwrite", "--restart"):
            with pytest.raises(AssertionError, match="a model is loaded"):
                nota(*run, flag)
        patch.setattr("nota_cli.inference.outputs.source_hash", lambda: "that of a later commit")
        with pytest.raises(AssertionError, match="a model is loaded"):
            nota(*run)
    assert sorted(path.name for path in out.parent.iterdir()) == ["o.csv", "o.run.json"]
    recording = folder / "audio" / "0.wav"
    sound = recording.read_bytes()
    recording.unlink()  # a hard link to a clip of other tests
    recording.write_bytes(sound)  # the same sound at another time: nobody has compared the bytes
    assert nota(*run) == 0
    assert report(out)["test_set"]["recordings"] != first["test_set"]["recordings"]
    assert report(out)["computed_rows"] == 3
    recording.write_bytes(b"no sound")
    for _ in range(2):  # the bad row is tried again each time
        assert nota(*run, "--on-error", "skip") == 0
        assert report(out)["computed_rows"] == 2
