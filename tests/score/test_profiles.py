"""Profiles, several references, intervals, answers: what the report says beside the organisers' figures."""

import json
import math
import random
from importlib.metadata import version

import pytest

from nota_cli.errors import DataError, UsageError
from nota_cli.score.cider import cider_d
from nota_cli.score.intervals import interval
from nota_cli.score.qa import answers, squad_normalize
from nota_cli.score.report import ScoreOptions, score_all, score_clips, score_submission
from nota_cli.submission import write_submission

TASKS = {"asr": "asr", "aac": "audiocaption_v2", "qa": "QA"}


def _files(folder, task, rows, choices=()):
    """A CSV and an annotation from (hypothesis, reference or references)."""
    pairs = [(said, right if isinstance(right, list) else [right]) for said, right in rows]
    write_submission(folder / "s.csv", [(f"test{i:04d}", said) for i, (said, _) in enumerate(pairs)])
    texts = [{"text": right[0], "texts": right[1:] or None} for _, right in pairs]
    items = [{"path": "x", "task": TASKS[task], "Q": "what?", **given} for given in texts]
    for item, offered in zip(items, choices, strict=False):
        item["choices"] = offered
    (folder / "a.json").write_text(json.dumps({"annotation": items}), encoding="utf-8")
    return folder / "s.csv", folder / "a.json", task


def test_standard_word_error_rate_is_whisper_s_normalizer_alone(tmp_path):
    # 13a makes two words of $20 and of 50% one without its sign; the plain count leaves both as they are.
    files = _files(tmp_path, "asr", [("it costs twenty pounds", "It costs $20!"), ("fifty", "fifty percent")])
    assert score_submission(*files)["reference_words"] == 5
    report = score_submission(*files, ScoreOptions(profile="standard"))
    assert (report["edits"], report["reference_words"], report["wer"]) == (2, 4, 50.0)
    assert report["printed"] == "WER: 50.0000%"
    assert (report["profile"], "13a" in report["normalizer"]) == ("standard", False)
    assert f"whisper-normalizer {version('whisper-normalizer')}" in report["normalizer"]
    assert "before openai/whisper pull request 2836" in report["normalizer"]


def test_the_report_is_stamped(tmp_path):
    report = score_submission(*_files(tmp_path, "asr", [("a dog", "a dog")]))
    assert report["profile"] == "organisers"
    assert "13a" in report["normalizer"]
    assert set(report["versions"]) == {"nota", "python", "whisper-normalizer", "sacrebleu", "jiwer", "numpy"}
    assert json.loads(json.dumps(report)) == report


def test_captions_meet_all_of_their_references_and_words_the_first(tmp_path):
    rows = [("a dog barks", ["a cat", "a dog barks"]), ("rain falls", ["rain falls", "it rains", "rain falls"])]
    report = score_submission(*_files(tmp_path, "aac", rows))
    assert report["references"] == 4  # the one that is there twice counts once
    texts = [["a cat", "a dog barks"], ["rain falls", "it rains"]]
    assert report["cider_d_x100"] == 100 * cider_d(["a dog barks", "rain falls"], texts).value
    assert report["edits"] == 2


def test_one_reference_in_a_list_is_one_reference():
    hypotheses, references = ["a dog barks", "rain"], ["a dog barks loudly", "rain falls"]
    assert cider_d(hypotheses, [[text] for text in references]) == cider_d(hypotheses, references)


def test_a_second_reference_like_the_first_changes_nothing():
    hypotheses, references = ["a dog barks", "rain"], ["a dog barks loudly", "rain falls"]
    twice = cider_d(hypotheses, [[text, text] for text in references])
    assert twice.per_clip == pytest.approx(cider_d(hypotheses, references).per_clip, rel=1e-14)


def test_a_clip_without_reference_is_named():
    with pytest.raises(DataError, match="clip 1 .counted from 0. has no reference"):
        cider_d(["a", "b"], [["a"], []])


@pytest.mark.parametrize("profile", ["organisers", "standard"])
def test_edges_of_speech(tmp_path, profile):
    one = score_submission(*_files(tmp_path, "asr", [("", "a dog")]), ScoreOptions(profile=profile, samples=100))
    assert (one["wer"], one["edits"], one["empty_texts"]) == (100.0, 2, 1)
    assert "intervals" not in one  # one clip tells nothing of others
    with pytest.raises(DataError, match="no reference has a word in it"):
        score_submission(*_files(tmp_path, "asr", [("a", "!?"), ("b", "，。 -")]), ScoreOptions(profile=profile))
    mixed = score_submission(*_files(tmp_path, "asr", [("a", "!"), ("b c", "b c")]), ScoreOptions(profile=profile))
    assert (mixed["edits"], mixed["reference_words"]) == (1, 2)
    other = [("犬が吠える", "犬が吠える"), ("ŒUVRE", "oeuvre"), ("naïve", "NAIVE")]
    assert score_submission(*_files(tmp_path, "asr", other), ScoreOptions(profile=profile))["edits"] == 0


def test_edges_of_captions(tmp_path):
    with pytest.raises(DataError, match="at least two clips"):
        score_submission(*_files(tmp_path, "aac", [("a", "a")]))
    marks = score_submission(*_files(tmp_path, "aac", [("...", "..."), ("!?", "。 !")]), ScoreOptions(samples=50))
    assert marks["cider_d_x100"] == pytest.approx(
        100 * 10 / 4 / 2
    )  # marks are words here: one unigram of one clip fits
    assert (marks["wer"], marks["reference_words"]) == (None, 0)
    assert marks["intervals"]["wer"] is None
    silent = score_submission(*_files(tmp_path, "aac", [("", "a dog"), ("", "rain")]))
    assert (silent["cider_d_x100"], silent["wer"]) == (0.0, 100.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The  Dog's, barks!", "dogs barks"), ("an apple a day", "apple day"), ("A.", ""), ("Theatre", "theatre")],
)
def test_answers_are_normalized_as_squad_does(text, expected):
    assert squad_normalize(text) == expected


def test_answers(tmp_path):
    rows = [("the red dog", "A red dog."), ("two big dogs", ["one dog", "two dogs"]), ("", "a"), ("cat", "dog")]
    report = score_submission(*_files(tmp_path, "qa", rows), ScoreOptions(profile="standard", samples=200))
    assert report["exact_match"] == 50.0  # the first, and silence where the answer is nothing but an article
    assert report["token_f1"] == pytest.approx(100 * (1 + 0.8 + 1 + 0) / 4)
    assert report["references"] == 5
    assert set(report["intervals"]) == {"exact_match", "token_f1", "percent", "samples", "seed"}
    organisers = score_submission(*_files(tmp_path, "qa", rows))
    assert organisers["exact_match"] == 0.0
    assert organisers["token_f1"] == pytest.approx(100 * (4 / 6 + 0 + 0 + 0) / 4)
    assert "references" not in organisers  # only `text` counts there


def test_f1_counts_a_repeated_word_as_often_as_both_have_it():
    result = answers(["dog dog dog"], [["dog dog cat"]], str)
    assert result.token_f1 == pytest.approx(2 / 3)
    assert result.exact_match == 0.0


def test_intervals_are_seeded_and_hold_the_figure(tmp_path):
    draw = random.Random(1)
    words = ["dog", "cat", "rain", "wind", "barks", "falls", "blows"]
    rows = [(" ".join(draw.sample(words, 5)), " ".join(draw.sample(words, 5))) for _ in range(60)]
    files = _files(tmp_path, "aac", rows)
    first, second = (score_submission(*files, ScoreOptions(samples=500)) for _ in range(2))
    assert first == second
    assert first["intervals"]["samples"] == 500
    for name in ("wer", "cider_d_x100"):
        low, high = first["intervals"][name]
        assert low < first[name] < high
    without = score_submission(*files)
    assert {name: value for name, value in first.items() if name != "intervals"} == without


def test_interval_has_the_width_of_the_theory():
    draw = random.Random(5)
    values = [draw.gauss(10, 2) for _ in range(400)]
    low, high = interval(values, [1.0] * 400, 4000)
    spread = math.sqrt(sum((value - sum(values) / 400) ** 2 for value in values) / 400 / 400)
    assert (high - low) == pytest.approx(2 * 1.96 * spread, rel=0.06)


def test_interval_of_clips_that_are_all_alike_is_a_point():
    assert interval([1] * 7, [4] * 7, 300) == (0.25, 0.25)
    assert interval([1], [4], 300) is None
    assert interval([1, 2], [0, 0], 300) is None


def test_unknown_profile(tmp_path):
    with pytest.raises(
        UsageError, match="unknown profile 'kaggle'; choose one of organisers, standard, open-asr, dcase, all"
    ):
        score_submission(*_files(tmp_path, "asr", [("a", "a")]), ScoreOptions(profile="kaggle"))


def test_clips_make_up_the_report(tmp_path):
    rows = [("a dog", "a dog barks"), ("rain rain", "rain")]
    scored = score_clips(*_files(tmp_path, "aac", rows))
    assert [clip.id for clip in scored.clips] == ["test0000", "test0001"]
    assert sum(clip.words.edits for clip in scored.clips) == scored.report["edits"]
    mean = sum(clip.measures["cider_d"] for clip in scored.clips) / 2
    assert 100 * mean == pytest.approx(scored.report["cider_d_x100"], rel=1e-14)


SPOKEN = [
    ("We ate ice cream at half past two.", "we ate icecream at 2:30"),
    ("Stephen's dog weighs twenty five kilos, um", "Steven's dog weighs 25 kilos"),
    ("uh the cat", "the dog"),
    ("thank you", "(inaudible)"),
]


def test_open_asr_merges_compounds_and_drops_rows_without_words(tmp_path):
    scored = score_clips(*_files(tmp_path, "asr", SPOKEN), ScoreOptions(profile="open-asr", samples=100))
    report = scored.report
    # we ate icecream at 2 30 | steven s dog weighs 25 kilos | the dog: one wrong word of 14, and two without merging
    assert (report["edits"], report["reference_words"], report["left_out"]) == (1, 14, 1)
    assert report["wer"] == pytest.approx(100 / 14)
    assert report["wer_without_merging"] == pytest.approx(300 / 14)
    assert report["printed"] == "WER: 7.1429%"
    assert report["intervals"]["wer"][0] <= report["wer"] <= report["intervals"]["wer"][1]
    assert "commit 00cbc7d36e0d" in report["normalizer"]
    assert [clip.words.reference_words for clip in scored.clips] == [6, 6, 2, 0]
    assert scored.clips[0].hypothesis == "we ate ice cream at half past two."  # as scored, before any normalizer
    assert ("icecream", "icecream") in scored.clips[0].words.alignment()


def test_open_asr_without_any_words(tmp_path):
    with pytest.raises(DataError, match="no reference has a word in it"):
        score_submission(*_files(tmp_path, "asr", [("a", "um"), ("b", "!")]), ScoreOptions(profile="open-asr"))


@pytest.mark.parametrize(("task", "profile", "only"), [("aac", "open-asr", "asr"), ("qa", "dcase", "aac")])
def test_a_profile_of_another_task(tmp_path, task, profile, only):
    with pytest.raises(UsageError, match=f"profile {profile} scores task {only} alone; for {task} choose one of org"):
        score_submission(*_files(tmp_path, task, [("a", "a"), ("b", "b")]), ScoreOptions(profile=profile))


def test_all_profiles_give_what_each_gives_alone(tmp_path):
    for task, names in {"asr": ["organisers", "standard", "open-asr"], "qa": ["organisers", "standard"]}.items():
        files = _files(tmp_path, task, SPOKEN)
        whole, scored = score_all(*files, ScoreOptions(samples=50))
        assert list(whole["profiles"]) == names
        for name, report in whole["profiles"].items():
            assert report == score_submission(*files, ScoreOptions(profile=name, samples=50))
        assert (whole["task"], whole["rows"], whole["not_computed"]) == (task, 4, {})
        assert scored.report["profile"] == "organisers"


def test_all_profiles_of_captions_say_what_is_missing(tmp_path):
    whole, _ = score_all(*_files(tmp_path, "aac", [("a dog barks", "a dog barks"), ("rain", "it rains")]))
    assert list(whole["profiles"]) + list(whole["not_computed"]) in (
        ["organisers", "dcase", "standard"],  # without aac-metrics or Java
        ["organisers", "standard", "dcase"],
    )
    for reason in whole["not_computed"].values():
        assert "aac-metrics" in reason


CHOICES = [["cat", "dog"], ["cat", "dog", "rain"], ["cat", "dog"], ["cat", "dog", "a", "rain"]]


def test_multiple_choice(tmp_path):
    rows = [("The answer is B.", "dog"), ("cat or rain", "C"), ("I do not know", "cat"), ("A", "cat"), ("dogs", "dogs")]
    files = _files(tmp_path, "qa", rows, CHOICES)
    scored = score_clips(*files, ScoreOptions(samples=300))
    report = scored.report
    # capitals count, so the raw text is parsed; the last row has no choices and is in none of these
    assert (report["choice_rows"], report["unparsed"], report["ambiguous"]) == (4, 1, 2)
    assert (report["accuracy"], report["unparsed_share"]) == (25.0, 75.0)
    assert report["chance"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 2 + 1 / 4) / 4)
    assert report["printed"] == "Accuracy: 25.0000% (3 of 4 answers name no one choice)"
    assert [clip.parsed for clip in scored.clips] == ["B", "ambiguous", "unparsed", "ambiguous", ""]
    low, high = report["intervals"]["accuracy"]
    assert 0 <= low < 25 < high <= 100
    assert report["exact_match"] == 20.0  # beside it, as without choices
    assert score_submission(*files, ScoreOptions(profile="standard"))["accuracy"] == 25.0


def test_without_choices_there_is_no_accuracy(tmp_path):
    scored = score_clips(*_files(tmp_path, "qa", [("dog", "dog")]))
    assert "accuracy" not in scored.report
    assert scored.clips[0].parsed is None
