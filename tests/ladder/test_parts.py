"""What a ladder is made of: rungs, the rows that it is scored on, reasons of failures, the best of a picture."""

import json
from pathlib import Path

import pytest

from nota_cli.errors import DataError, UsageError
from nota_cli.ladder.commands import reason_of, run_command
from nota_cli.ladder.figures import Counts, change, differing, score_answers
from nota_cli.ladder.plot import pareto_best
from nota_cli.ladder.rungs import parse_bits, parse_runtimes, rungs_of
from nota_cli.ladder.sets import read_sets
from nota_cli.ladder.state import only_one, open_state
from nota_cli.submission import write_submission


def test_rungs_are_every_combination_and_the_reference_once() -> None:
    names = [rung.name for rung in rungs_of(["gguf", "onnx"], [32, 8], [4, 32])]
    onnx = ["onnx-e32-d32", "onnx-e32-d4", "onnx-e8-d32", "onnx-e8-d4"]
    gguf = ["gguf-e32-f16", "gguf-e32-q4_k_m", "gguf-e8-f16", "gguf-e8-q4_k_m"]
    assert names == ["torch", *onnx, *gguf]
    assert [rung.name for rung in rungs_of(["gguf"], [8], [32, 16])] == ["torch", "gguf-e8-f16"]
    assert [rung.name for rung in rungs_of(["torch"], [32], [32])] == ["torch"]


@pytest.mark.parametrize("text", ["5", "8,x", ",", "8;4"])
def test_other_bits_are_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(UsageError, match=r"--decoder-bits .*give any of 32, 8, 4"):
        parse_bits(text, (32, 8, 4), "--decoder-bits")


def test_lists_may_have_spaces_capitals_and_repetitions() -> None:
    assert parse_bits(" 8, 32,8", (32, 8), "--encoder-bits") == [8, 32]
    assert parse_runtimes("ONNX, torch") == ["onnx", "torch"]


def test_an_annotation_is_divided_by_task(clips: Path) -> None:
    sets = read_sets([clips / "all.json"], [], [], None)
    assert [(each.name, len(each.rows), each.audio_root) for each in sets] == [("asr", 2, clips), ("aac", 3, clips)]
    assert [row["testset_id"] for row in sets[1].rows] == ["test0000", "test0002", "test0004"]
    assert [row["label"] for row in sets[1].rows] == ["rain"] * 3
    only = read_sets([clips / "all.json"], [clips / "audio"], ["asr"], 1)
    assert [(each.name, len(each.rows), each.audio_root) for each in only] == [("asr", 1, clips / "audio")]


def test_two_annotations_of_a_task_go_by_their_names(clips: Path) -> None:
    sets = read_sets([clips / "asr.json", clips / "all.json"], [], [], None)
    assert [each.name for each in sets] == ["asr-asr", "asr-all", "aac"]


def test_rows_without_a_task_get_the_one_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"annotation": [{"path": "a.wav", "text": "three"}]}))
    (each,) = read_sets([tmp_path / "a.json"], [], ["asr"], None)
    assert each.rows == ({"path": "a.wav", "text": "three", "task": "asr", "testset_id": "test0000"},)


def test_what_cannot_be_scored_is_known_before_anything_runs(tmp_path: Path, clips: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text(
        json.dumps({"annotation": [{"path": "a.wav", "task": "asr", "text": ""}, {"path": "b.wav", "task": "asr"}]})
    )
    with pytest.raises(DataError, match=r"a\.json: row 1: no text"):
        read_sets([file], [], [], None)
    with pytest.raises(DataError, match=r"all\.json: none of its 5 rows is of task qa \(there: aac, asr\)"):
        read_sets([clips / "all.json"], [], ["qa"], None)
    with pytest.raises(DataError, match="2 clips of task aac"):
        read_sets([clips / "all.json"], [], ["aac"], 1)
    with pytest.raises(UsageError, match="2 times --audio-root for 1 times --annotation"):
        read_sets([clips / "all.json"], [clips, clips], [], None)


def test_loops_count_although_they_were_cut(tmp_path: Path) -> None:
    rows = [{"path": f"{n}.wav", "task": "asr", "text": "a dog", "testset_id": f"test{n:04d}"} for n in range(3)]
    annotation, csv = tmp_path / "a.json", tmp_path / "a.csv"
    annotation.write_text(json.dumps({"annotation": rows}))
    write_submission(csv, [("test0000", "a dog"), ("test0001", "cat " * 20), ("test0002", "a")])
    answers = score_answers(csv, annotation, "asr", cut={"test0002"})
    assert answers.looped == (False, True, True)
    write_submission(csv, [("test0000", "a dog"), ("test0001", "a dog"), ("test0002", "")])
    other = score_answers(csv, annotation, "asr")
    assert (differing(answers, other), other.empty) == (2, 1)
    assert change(other.counts["wer"], answers.counts["wer"]).value == pytest.approx(100 * (2 - 21) / 6)


def test_a_paired_interval_is_narrower_than_the_clips_differ() -> None:
    hard = tuple(float(n % 10) for n in range(100))
    ours = Counts(tuple(value + (n % 2) for n, value in enumerate(hard)), (10.0,) * 100)
    difference = change(ours, Counts(hard, (10.0,) * 100))
    assert difference.value == pytest.approx(5.0)
    assert difference.interval is not None
    low, high = difference.interval
    assert 3.9 < low < 5 < high < 6.1
    assert change(Counts((1.0,), (2.0,)), Counts((0.0,), (2.0,))).interval is None


def test_the_best_are_those_that_none_beats() -> None:
    points = [(1.0, 20.0), (2.0, 10.0), (3.0, 15.0), (1.0, 20.0), (4.0, 10.0)]
    assert pareto_best(points, lower=True) == [True, True, False, True, False]
    assert pareto_best(points, lower=False) == [True, False, False, True, False]


def test_reasons_are_one_line(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    assert reason_of(1, "loading\nerror: two\n  - things\n", log) == "two - things"
    assert reason_of(1, "Traceback\nValueError: bad\n", log) == f"ValueError: bad (see {log})"
    assert reason_of(1, "", log) == f"exit status 1, and it says nothing (see {log})"
    assert "SIGKILL; the system does so when memory runs out" in reason_of(-9, "", log)


def test_a_command_says_why_it_failed_and_leaves_a_log(tmp_path: Path) -> None:
    log = tmp_path / "rung" / "log.txt"
    failure = run_command(["score", str(tmp_path / "no.csv"), "--annotation", "no.json", "--task", "asr"], log)
    assert failure is not None
    assert "no.json" in failure
    assert log.read_text().startswith("$ nota score ")
    assert failure in " ".join(log.read_text().split())


@pytest.mark.parametrize("text", ["[]", "{", '{"nota_ladder": 1}', '{"nota_ladder": 2, "source": "s", "steps": {}}'])
def test_a_damaged_state_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(UsageError, match=r"state\.json.*Choose another"):
        open_state(tmp_path, "s")


def test_two_ladders_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with only_one(tmp_path / "new"), pytest.raises(UsageError, match="another nota ladder"), only_one(tmp_path / "new"):
        pass
    with only_one(tmp_path / "new"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"), only_one(tmp_path / "file"):
        pass


def test_outputs_of_another_key_are_removed_and_those_of_the_same_kept(tmp_path: Path) -> None:
    state, csv, folder = open_state(tmp_path, "s"), tmp_path / "a.csv", tmp_path / "export"
    csv.write_text("somebody's")
    with pytest.raises(DataError, match=r"a\.csv is there, and is not this ladder's"):
        state.begin("torch/asr", "one", [csv, folder])
    assert not open_state(tmp_path, "s").is_finished("torch/asr", "one", csv)
    csv.unlink()
    state.begin("torch/asr", "one", [csv, folder])
    csv.write_text("the ladder's")
    assert state.is_finished("torch/asr", "one", csv)
    folder.mkdir()
    again = open_state(tmp_path, "s")
    again.begin("torch/asr", "one", [csv, folder])
    assert csv.exists()
    again.begin("torch/asr", "two", [csv, folder])
    assert not csv.exists()
    assert not folder.exists()
    assert not again.is_finished("torch/asr", "two", csv)
