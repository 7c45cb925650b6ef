"""The organisers' figures from a CSV and an annotation: golden, AudioCaps at size, joining and its errors."""

import csv
import json
import subprocess
import sys

import pytest

from helpers.paths import REPOSITORY
from nota_cli.errors import DataError, UsageError
from nota_cli.score.report import ScoreOptions, score_submission
from nota_cli.submission import write_submission

AUDIOCAPS = REPOSITORY.parent / "shared" / "data" / "audiocaps" / "test.csv"
GOLDEN = json.loads((REPOSITORY / "tests" / "golden" / "score.json").read_text(encoding="utf-8"))


def _write(folder, pairs, rows):
    """A CSV of (id, text) pairs and an annotation of rows, as files."""
    write_submission(folder / "s.csv", pairs)
    (folder / "a.json").write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    return folder / "s.csv", folder / "a.json"


def _golden_files(folder, task, ids=True):
    rows = [{"path": f"{i}.wav", "text": row["ref"], "task": task} for i, row in enumerate(GOLDEN["rows"])]
    if ids:
        rows = [row | {"testset_id": golden["id"]} for row, golden in zip(rows, GOLDEN["rows"], strict=True)]
    pairs = [(row["id"], row["hyp"].upper() + "</s> and more<eos>") for row in GOLDEN["rows"]]
    return _write(folder, reversed(pairs), rows)


@pytest.mark.parametrize("ids", [True, False])
def test_golden_wer(tmp_path, ids):
    result = score_submission(*_golden_files(tmp_path, "asr", ids), "asr", ScoreOptions(end_symbols=["<eos>", "</s>"]))
    assert result["printed"] == "WER: 30.2524%"
    assert result["wer"] == 100 * GOLDEN["wer"]
    assert result["edits"] == sum(row["edits"] for row in GOLDEN["rows"])
    assert result["reference_words"] == sum(row["ref_words"] for row in GOLDEN["rows"])
    assert result["rows"] == 300
    assert result["empty_texts"] == sum(not row["hyp"].strip() for row in GOLDEN["rows"]) > 0


def test_golden_cider(tmp_path):
    result = score_submission(*_golden_files(tmp_path, "audiocaption_v2"), "aac", ScoreOptions(end_symbols=["</s>"]))
    assert result["printed"] == "SPIDEr: 486.9333"
    assert result["cider_d_x100"] == 100 * GOLDEN["cider_d"]
    assert "not SPIDEr" in result["note"]
    assert result["wer"] == 100 * GOLDEN["wer"]


@pytest.mark.skipif(not AUDIOCAPS.is_file(), reason="needs ../shared/data/audiocaps")
@pytest.mark.parametrize(
    ("count", "cider", "wer"),
    [(975, "SPIDEr: 73.1007", "WER: 100.0798%"), (7294, "SPIDEr: 69.4747", "WER: 100.0908%")],
)
def test_audiocaps(tmp_path, count, cider, wer):
    captions = {}
    with AUDIOCAPS.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["youtube_id"], []).append(row["caption"])
    clips = ([captions[name] for name in sorted(captions)] * 8)[:count]
    files = _write(
        tmp_path,
        [(f"test{i:04d}", clip[0]) for i, clip in enumerate(clips)],
        [{"path": "x.wav", "text": clip[1], "task": "audiocaption_v2"} for clip in clips],
    )
    result = score_submission(*files, "aac")
    assert result["printed"] == cider
    assert f"WER: {result['wer']:.4f}%" == wer


def test_references_are_neither_cut_nor_lower_cased(tmp_path):
    rows = [{"path": "x", "text": text, "task": "audiocaption"} for text in ("A Dog", "rain falls")]
    files = _write(tmp_path, [("test0000", "A Dog"), ("test0001", "rain falls")], rows)
    result = score_submission(*files, "aac")
    assert result["cider_d_x100"] == pytest.approx(250)  # the second clip's 1- and 2-grams only
    files = _write(tmp_path, [("test0000", "rain")], [{"path": "x", "text": "rain ### falls", "task": "asr"}])
    assert (
        score_submission(*files, "asr", ScoreOptions(end_symbols=["###"]))["reference_words"] == 2
    )  # cut, it would be one word


def test_qa_is_exact_match_after_normalization(tmp_path):
    texts = ["Twenty dogs!", "Yes.", "grey"]
    rows = [{"path": "x", "text": text, "task": "QA", "Q": "what?"} for text in texts]
    files = _write(tmp_path, [("test0000", "20 dogs"), ("test0001", "no"), ("test0002", "gray ")], rows)
    result = score_submission(*files, "qa")
    assert result["exact_match"] == pytest.approx(200 / 3)
    assert result["printed"] == "Exact match: 66.6667%"


def test_rows_of_other_tasks_are_left_out_and_counted(tmp_path):
    rows = [
        {"path": "a", "text": "hello there", "task": "asr"},
        {"path": "b", "text": "rain", "task": "audiocaption_v2"},
        {"path": "c", "text": "good day"},  # no task: the one asked for
        {"path": "d", "task": "phone_recognition"},
    ]
    pairs = [("test0000", "hello"), ("test0002", "good day"), ("test0003", "x"), ("test0777", "y")]
    result = score_submission(*_write(tmp_path, pairs, rows), "asr")
    assert (result["rows"], result["other_rows"], result["unknown_ids"]) == (2, 2, 1)
    assert result["wer"] == 25.0


def test_missing_ids_are_listed(tmp_path):
    rows = [{"path": "x", "text": "a", "task": "asr", "testset_id": f"test{i + 5:04d}"} for i in range(4)]
    with pytest.raises(DataError) as caught:
        score_submission(*_write(tmp_path, [("test0006", "a")], rows), "asr")
    message = str(caught.value)
    assert "lacks 3 of 4 ids" in message
    assert "test0005 (row 0" in message
    assert "test0008 (row 3" in message
    assert "test0006" not in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", ["the file is empty"]),
        (b"\xff\xfe", ["line 1", "not UTF-8"]),
        (b"id,text\ntest0000,a\n", ["line 1", "columns must be exactly testset_id,text"]),
        (
            b"testset_id,text\ntest0000,a\ntest0000,b\ntest0001\n",
            ["line 3: the id 'test0000' is used twice", "line 4: 1 field"],
        ),
        (b'testset_id,text\ntest0000,"a\n', ["line 2: a quote is opened here"]),
    ],
)
def test_unreadable_csv(tmp_path, content, expected):
    files = _write(tmp_path, [], [{"path": "x", "text": "a", "task": "asr"}])
    files[0].write_bytes(content)
    with pytest.raises(DataError) as caught:
        score_submission(*files, "asr")
    assert "s.csv" in str(caught.value)
    for part in expected:
        assert part in str(caught.value)


def test_rows_without_reference_are_listed(tmp_path):
    rows = [{"path": "x", "text": "a", "task": "asr"}, {"path": "y", "task": "asr"}]
    with pytest.raises(DataError, match=r"1 rows have no `text`[\s\S]*row 1 \(test0001\)"):
        score_submission(*_write(tmp_path, [("test0000", "a"), ("test0001", "b")], rows), "asr")


def test_wrong_task(tmp_path):
    files = _write(tmp_path, [("test0000", "a")], [{"path": "x", "text": "a", "task": "asr"}])
    with pytest.raises(UsageError, match="unknown task 'ocr'; choose one of asr, aac, qa"):
        score_submission(*files, "ocr")
    with pytest.raises(DataError, match="none of its 1 rows belongs to task aac"):
        score_submission(*files, "aac")


def test_missing_files(tmp_path):
    files = _write(tmp_path, [("test0000", "a")], [{"path": "x", "text": "a", "task": "asr"}])
    with pytest.raises(UsageError, match="none.csv"):
        score_submission(tmp_path / "none.csv", files[1], "asr")
    with pytest.raises(UsageError, match="none.json"):
        score_submission(files[0], tmp_path / "none.json", "asr")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("nota_cli.score.report", "torch transformers pandas"),
        ("nota_cli.submission", "torch transformers pandas numpy jiwer sacrebleu whisper_normalizer"),
    ],
)
def test_importing_is_light(module, heavy):
    code = f"import sys, {module}; print(sorted(set({heavy.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.strip() == "[]"


def test_the_text_that_cannot_be_normalized_is_named(tmp_path):
    rows = [{"path": "x", "text": "a", "task": "asr"}, {"path": "y", "text": "b", "task": "asr"}]
    files = _write(tmp_path, [("test0000", "a"), ("test0001", "9" * 5000)], rows)
    with pytest.raises(DataError, match=r"s\.csv, test0001: Whisper's normalizer"):
        score_submission(*files, "asr")


def test_another_header_is_shown_and_its_rows_are_not_judged(tmp_path):
    files = _write(tmp_path, [], [{"path": "x", "text": "a", "task": "asr"}])
    files[0].write_text("testset_id;text\ntest0000;a\n")
    with pytest.raises(DataError, match=r"and are testset_id;text\n`nota validate-submission") as caught:
        score_submission(*files, "asr")
    assert "line 2" not in str(caught.value)
