"""The CSV of all clips, the tables of the worst, and the command that shows them."""

import csv
import json

import pytest

from nota_cli.score.details import remarks, side_by_side, substitutions, worst, write_details
from nota_cli.score.report import score_all, score_clips
from nota_cli.submission import write_submission

ASR = [("a cat barks", "a dog barks"), ("the cat is", "the dog is here"), ("rain", "rain"), ("", "three words gone")]


@pytest.fixture
def files(tmp_path):
    def write(task, rows):
        names = [f"test{i:04d}" for i in range(len(rows))]
        write_submission(tmp_path / "s.csv", [(name, said) for name, (said, _) in zip(names, rows, strict=True)])
        items = [{"path": "x", "text": right, "task": task, "Q": "what?"} for _, right in rows]
        (tmp_path / "a.json").write_text(json.dumps({"annotation": items}), encoding="utf-8")
        return tmp_path / "s.csv", tmp_path / "a.json"

    return write


def _read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_details_of_speech(files, tmp_path):
    write_details(tmp_path / "d.csv", score_clips(*files("asr", ASR), "asr").clips)
    rows = _read(tmp_path / "d.csv")
    assert [row["testset_id"] for row in rows] == ["test0000", "test0001", "test0002", "test0003"]
    assert [row["edits"] for row in rows] == ["1", "2", "0", "3"]
    assert rows[1]["aligned_hypothesis"] == "the cat is ***"
    assert rows[1]["aligned_reference"] == "the dog is here"
    assert [rows[1][name] for name in ("substitutions", "insertions", "deletions", "reference_words")] == list("1014")
    for row in rows:
        assert len(row["aligned_hypothesis"].split()) == len(row["aligned_reference"].split())


def test_details_of_captions_and_answers(files, tmp_path):
    rows = [('a "dog", barks', "a dog barks"), ("rain | falls", "rain falls on roofs")]
    scored = score_clips(*files("audiocaption", rows), "aac")
    write_details(tmp_path / "d.csv", scored.clips)
    found = _read(tmp_path / "d.csv")
    assert [float(row["cider_d"]) for row in found] == [clip.measures["cider_d"] for clip in scored.clips]
    assert found[0]["hypothesis"] == 'a "dog", barks'
    write_details(tmp_path / "q.csv", score_clips(*files("QA", rows), "qa").clips)
    assert list(_read(tmp_path / "q.csv")[0]) == ["testset_id", "exact_match", "token_f1", "hypothesis", "reference"]


def test_details_of_choices_have_what_each_answer_was_read_as(files, tmp_path):
    csv_path, annotation = files("QA", [("A dog.", "dog"), ("cat or dog", "cat")])
    content = json.loads(annotation.read_text())
    content["annotation"][1]["choices"] = ["dog", "cat"]
    annotation.write_text(json.dumps(content))
    write_details(tmp_path / "q.csv", score_clips(csv_path, annotation, "qa").clips)
    assert [(row["parsed"], row["hypothesis"]) for row in _read(tmp_path / "q.csv")] == [
        ("", "a dog."),
        ("ambiguous", "cat or dog"),
    ]


def test_all_profiles_stand_side_by_side(files):
    report, _ = score_all(*files("asr", [("we like ice cream", "we like icecream"), ("a cat", "a dog")]), "asr")
    columns, rows = side_by_side(report)
    assert columns == ["organisers", "standard", "open-asr"]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["edits"] == ["3", "3", "1"]
    assert cells["wer"] == ["60.0000", "60.0000", "20.0000"]
    assert cells["left_out"] == ["-", "-", "0"]
    assert [line.split(":")[0] for line in remarks(report)] == columns


def test_details_that_fail_leave_the_old_file(files, tmp_path):
    clips = score_clips(*files("asr", ASR), "asr").clips
    (tmp_path / "d.csv").write_text("old")
    with pytest.raises(AttributeError):
        write_details(tmp_path / "d.csv", [clips[0], None])
    assert (tmp_path / "d.csv").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "d.csv", "s.csv"]


def test_worst_clips_and_commonest_substitutions(files):
    clips = score_clips(*files("asr", ASR), "asr").clips
    assert [clip.id for clip in worst(clips, 9)] == ["test0003", "test0001", "test0000"]
    assert substitutions(clips, 9) == [("dog", "cat", 2)]
    captions = score_clips(*files("audiocaption", ASR), "aac").clips
    assert worst(captions, 1)[0].id == "test0003"
    answers = score_clips(*files("QA", [("a", "a"), ("b", "c")]), "qa").clips
    assert [clip.id for clip in worst(answers, 5)] == ["test0001"]


def test_command(nota, files, tmp_path, capsys):
    asked = ["score", *files("asr", ASR)]
    asked = [asked[0], asked[1], "--annotation", asked[2], "--task", "asr"]
    assert nota(*asked, "--details", tmp_path / "out" / "d.csv", "--worst", 2) == 0
    shown = capsys.readouterr()
    assert "54.5455" in shown.out
    assert "Worst clips" in shown.err
    assert "Worst clips" not in shown.out
    assert "test0003" in shown.err
    assert "test0000" not in shown.err
    assert "Most frequent substitutions" in shown.err
    assert len(_read(tmp_path / "out" / "d.csv")) == 4
    assert nota(*asked, "--json", "--bootstrap", 0) == 0
    shown = capsys.readouterr()
    assert "intervals" not in json.loads(shown.out)
    assert shown.err == ""
    assert nota(*asked, "--json") == 0
    assert json.loads(capsys.readouterr().out)["intervals"]["samples"] == 1000


def test_command_says_when_there_is_nothing_to_show(nota, files, capsys):
    path, annotation = files("asr", [("a", "a"), ("b", "b")])
    assert nota("score", path, "--annotation", annotation, "--task", "asr") == 0
    assert "no clip is worse than the others" in capsys.readouterr().err


def test_command_refuses_what_cannot_be_before_scoring(nota, files, tmp_path, capsys):
    path, annotation = files("asr", ASR)
    asked = ["score", path, "--annotation", annotation, "--task", "asr"]
    assert nota(*asked, "--details", tmp_path) == 2
    assert "it is a folder" in capsys.readouterr().err
    assert nota(*asked, "--profile", "best") == 2
    assert "choose one of organisers, standard" in capsys.readouterr().err
    assert nota(*asked, "--bootstrap", -1) == 2


@pytest.mark.parametrize(("task", "row_task"), [("asr", "asr"), ("aac", "audiocaption_v2")])
def test_endless_texts_are_cut_on_the_screen_alone(nota, files, tmp_path, capsys, task, row_task):
    path, annotation = files(row_task, [("word " * 2000 + "x" * 5000, "a"), ("b", "b")])
    assert nota("score", path, "--annotation", annotation, "--task", task, "--details", tmp_path / "d.csv") == 0
    shown = capsys.readouterr().err
    assert "…" in shown
    assert len(shown) < 12_000
    assert len(_read(tmp_path / "d.csv")[0]["hypothesis"]) == 15_000
