"""The weighted-rank table: against a calculation by hand, with ties and gaps, from reports on disk, and drawn."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nota_cli.errors import DataError, UsageError
from nota_cli.leaderboard.ranking import METRICS, cautions, pareto, parse_weights, rank, rank_runs, reference_runs
from nota_cli.leaderboard.reports import FIGURES, Run, read_runs

Nota = Callable[..., int]


def run(name: str, **figures: float) -> Run:
    return Run(name, {**dict.fromkeys(FIGURES), **figures})


def measurement(path: Path, recipe: str, **values: Any) -> Path:
    """A file with the keys of `nota efficiency --out` that are read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {"recipe": recipe, "seconds": {}, "weights_mb": 1.0, "memory_mb": {}, "load_format": "auto"}
    report |= {"protocol": "synced", "device": "cpu, 2 threads", "peak_memory_gib": 2.0}
    path.write_text(json.dumps({**report, "ttft_from_features_s": 0.2, "tpot_s": 0.05, **values}))
    return path


def score(path: Path, task: str, **values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = {"asr": {"wer": 6.0}, "aac": {"wer": 70.0, "cider_d_x100": 30.0}, "qa": {"exact_match": 50.0}}
    path.write_text(json.dumps({"task": task, "rows": 2, **figures[task], **values}))
    return path


def test_the_seeds_stand_as_calculated_by_hand() -> None:
    found = {one.run.name: one for one in rank_runs(reference_runs())}
    # WER, less is better:         SALMONN-7B 5.1 < CV-16 5.30 < SALMONN-3B 6.34 < CV-03 6.42 < NLP-07 6.99
    # captions, more is better:    SALMONN-7B 48.5 > NLP-07 35.93 > CV-16 35.49 > CV-03 30.49 > SALMONN-3B 20.27
    # memory, less is better:      NLP-07 3.83 < CV-16 4.09 < CV-03 5.3169 < SALMONN-3B 9.1761 < SALMONN-7B 15.75
    # latency, TTFT + TPOT:        NLP-07 0.1722 + 0.0380 = 0.2102 < SALMONN-3B 0.2061 + 0.0450 = 0.2511
    #                              < CV-16 0.36 in all < CV-03 0.3555 + 0.1072 = 0.4627; SALMONN-7B has none: last
    # The hidden task: nobody has a figure, so it counts for none.
    # Sums, weights 1, 1, 2, 2:    NLP-07      5 + 2 + 2 x 1 + 2 x 1 = 11
    #                              CV-16       2 + 3 + 2 x 2 + 2 x 3 = 15
    #                              SALMONN-3B  3 + 5 + 2 x 4 + 2 x 2 = 20
    #                              CV-03       4 + 4 + 2 x 3 + 2 x 4 = 22
    #                              SALMONN-7B  1 + 1 + 2 x 5 + 2 x 5 = 22
    by_hand = {
        "NLP-07": ((5, 2, 1, 1, None), 11, 1),
        "CV-16": ((2, 3, 2, 3, None), 15, 2),
        "SALMONN-3B": ((3, 5, 4, 2, None), 20, 3),
        "CV-03": ((4, 4, 3, 4, None), 22, 4),
        "SALMONN-7B": ((1, 1, 5, 5, None), 22, 4),
    }
    assert {name: (tuple(one.ranks.values()), one.total, one.overall_rank) for name, one in found.items()} == by_hand
    assert list(found)[:3] == ["NLP-07", "CV-16", "SALMONN-3B"]
    # CV-16 beats CV-03 in WER, memory and latency; nobody beats the other three in all; SALMONN-7B has no latency.
    assert {name: one.pareto for name, one in found.items()} == {
        "NLP-07": True,
        "CV-16": True,
        "SALMONN-3B": True,
        "CV-03": False,
        "SALMONN-7B": None,
    }


def test_the_seeds_without_the_one_that_lacks_latency() -> None:
    found = {one.run.name: one for one in rank_runs(reference_runs(), missing="skip")}
    # Without SALMONN-7B every rank behind it in WER and captions moves up by one:
    # NLP-07 4 + 1 + 2 + 2 = 9, CV-16 1 + 2 + 4 + 6 = 13, SALMONN-3B 2 + 4 + 8 + 4 = 18, CV-03 3 + 3 + 6 + 8 = 20
    sums = {"NLP-07": (9, 1), "CV-16": (13, 2), "SALMONN-3B": (18, 3), "CV-03": (20, 4), "SALMONN-7B": (None, None)}
    assert {name: (one.total, one.overall_rank) for name, one in found.items()} == sums
    assert list(found)[-1] == "SALMONN-7B"
    assert set(found["SALMONN-7B"].ranks.values()) == {None}


def test_equal_figures_share_the_best_of_their_places() -> None:
    assert rank([3.0, 1.0, 3.0, 7.0]) == [2, 1, 2, 4]
    assert rank([3.0, 1.0, 3.0, 7.0], lower=False) == [2, 4, 2, 1]
    assert rank([2.0, 2.0, 2.0]) == [1, 1, 1]


def test_missing_figures_come_last_or_not_at_all() -> None:
    assert rank([None, 5.0, None, 1.0, 5.0]) == [4, 2, 4, 1, 2]
    assert rank([None, 5.0, None, 1.0], missing="skip") == [None, 2, None, 1]
    assert rank([None, None], missing="skip") == [None, None]


def test_a_gap_is_never_worth_a_good_rank() -> None:
    full, cheap = run("full", wer=9.0, memory=9.0, latency=9.0), run("cheap", memory=1.0)
    for missing in ("worst", "skip"):
        first = rank_runs([cheap, full], missing=missing)[0]
        assert first.run.name == "full", missing


def test_weights_decide_and_sums_that_are_equal_are_equal() -> None:
    runs = [run("a", wer=5.0, spider=20.0, memory=9.0), run("b", wer=6.0, spider=30.0, memory=3.0)]
    assert [one.run.name for one in rank_runs(runs)] == ["b", "a"]
    assert [one.run.name for one in rank_runs(runs, parse_weights("memory=0,spider=0.5"))] == ["a", "b"]
    # 0.1 + 0.2 x 2 is not 0.2 + 0.3 x 1 in binary.
    thirds = parse_weights("wer=0.1,spider=0.2,memory=0.3,latency=0,qa=0")
    level = [run("a", wer=5.0, spider=30.0, memory=9.0), run("b", wer=6.0, spider=20.0, memory=3.0)]
    assert {one.overall_rank for one in rank_runs(level, thirds)} == {1}


@pytest.mark.parametrize(
    "text", ["speed=1", "wer", "wer=much", "wer=-1", "wer=nan", "wer=0,spider=0,memory=0,latency=0,qa=0"]
)
def test_weights_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--weights"):
        parse_weights(text)


def test_weights_on_figures_that_nobody_has_rank_nobody() -> None:
    with pytest.raises(UsageError, match="no run has a figure"):
        rank_runs(reference_runs(), parse_weights("wer=0,spider=0,memory=0,latency=0"))


def test_pareto_best_are_those_that_none_beats() -> None:
    runs = [
        run("best error", wer=5.0, memory=9.0, latency=9.0),
        run("best memory", wer=9.0, memory=1.0, latency=9.0),
        run("beaten", wer=9.0, memory=2.0, latency=9.0),
        run("twin", wer=5.0, memory=9.0, latency=9.0),
        run("unknown", wer=1.0, memory=1.0),
    ]
    assert pareto(runs) == [True, True, False, True, None]
    captions = [run("a", spider=30.0, memory=1.0, latency=1.0), run("b", spider=20.0, memory=1.0, latency=1.0)]
    assert pareto(captions) == [True, False]


def test_a_folder_is_a_run(tmp_path: Path) -> None:
    measurement(tmp_path / "first" / "cost.json", "tiny", ttft_s=0.3)
    score(tmp_path / "first" / "speech.json", "asr")
    score(tmp_path / "first" / "sounds.json", "aac")
    (tmp_path / "first" / "metrics.json").write_text("{}")
    found = read_runs([str(tmp_path / "first")])
    assert [one.name for one in found] == ["tiny"]
    # TTFT is the organisers' figure where there is one; the captions' WER is no WER of the system's.
    expected = {"wer": 6.0, "spider": 30.0, "memory": 2.0, "latency": 0.35, "qa": None, "ttft": 0.3, "tpot": 0.05}
    assert found[0].figures == expected
    measurement(tmp_path / "second" / "cost.json", "tiny")
    assert [one.name for one in read_runs([str(tmp_path)])] == ["first", "second"]


def test_loose_reports_are_joined_by_their_names(tmp_path: Path) -> None:
    files = [
        score(tmp_path / "mine-asr.json", "asr"),
        score(tmp_path / "score_aac_mine.json", "aac"),
        measurement(tmp_path / "mine.efficiency.json", "gemma2-2b-gptq"),
        score(tmp_path / "scores" / "qwen2.5-0.5b-ced.qa.json", "qa"),
        measurement(tmp_path / "q1.json", "qwen2.5-0.5b-ced"),
        score(tmp_path / "other.json", "asr"),
    ]
    found = {one.name: {path.name for path in one.files} for one in read_runs([str(file) for file in files])}
    assert found == {
        "gemma2-2b-gptq": {"mine-asr.json", "score_aac_mine.json", "mine.efficiency.json"},
        "qwen2.5-0.5b-ced": {"qwen2.5-0.5b-ced.qa.json", "q1.json"},
        "other": {"other.json"},
    }
    # A folder that holds two of a kind is several runs, by the same rule.
    assert {one.name for one in read_runs([str(tmp_path)])} == {"gemma2-2b-gptq", "qwen2.5-0.5b-ced", "other"}


def test_two_measurements_of_one_recipe_go_by_their_files_names(tmp_path: Path) -> None:
    files = [measurement(tmp_path / name, "tiny") for name in ("greedy.json", "beams.json")]
    assert [one.name for one in read_runs([str(file) for file in files])] == ["greedy", "beams"]


def test_a_name_joins_what_it_is_given(tmp_path: Path) -> None:
    first, second = score(tmp_path / "a.json", "asr"), measurement(tmp_path / "b.json", "tiny")
    found = read_runs([f"mine={first},{second}", str(first)])
    assert [(one.name, len(one.files)) for one in found] == [("mine", 2), ("a", 1)]
    with pytest.raises(UsageError, match="both asr reports"):
        read_runs([f"mine={first},{score(tmp_path / 'c.json', 'asr')}"])
    with pytest.raises(UsageError, match="two runs are called 'mine'"):
        read_runs([f"mine={first}", f"mine={second}"])


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"{}", DataError, "neither a score nor an efficiency report; write one with nota score"),
        (b"[1]", DataError, "neither a score"),
        (b'{"task": ["asr"]}', DataError, "neither a score"),
        (b'{"task": "asr"', DataError, "cannot be read as JSON"),
        (b"\xff\xfe{\x00", DataError, "not UTF-8"),
        (None, UsageError, "cannot read .*report.json"),
    ],
)
def test_what_is_no_report_is_named(tmp_path: Path, content: bytes | None, kind: type, message: str) -> None:
    path = tmp_path / "report.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind, match=message) as caught:
        read_runs([str(path)])
    assert str(path) in str(caught.value)
    if content is not None:
        with pytest.raises(DataError, match="no score or efficiency report in this folder"):
            read_runs([str(tmp_path)])


def test_figures_that_are_no_numbers_are_missing(tmp_path: Path) -> None:
    path = measurement(tmp_path / "a.json", "a", peak_memory_gib=None, tpot_s=float("nan"))
    figures = read_runs([str(path)])[0].figures
    assert figures["memory"] is figures["latency"] is figures["tpot"] is None
    assert figures["ttft"] == 0.2


def test_scores_of_other_profiles_are_not_passed_off_as_the_organisers(
    nota: Nota, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score(tmp_path / "asr.json", "asr", profile="standard")
    score(tmp_path / "aac.json", "aac", profile="standard", spider=0.4, cider_d=0.6, cider_d_x100=None)
    assert nota("compare", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["cider_d_x100"] for one in found["runs"] if not one["reference"]] == [None]
    assert "scores come from different profiles: standard; organisers" in found["cautions"]
    assert any("--profile organisers" in line for line in found["cautions"])


def test_scores_of_different_test_sets_are_not_passed_off_as_one(tmp_path: Path) -> None:
    words = "WER was scored on different numbers of clips: digits 300, speech 50"
    sets = [score(tmp_path / f"{name}-asr.json", "asr", rows=rows) for name, rows in (("digits", 300), ("speech", 50))]
    assert words in cautions(read_runs([str(path) for path in sets]))
    score(sets[0], "asr", rows=50)
    assert cautions(read_runs([str(path) for path in sets])) == []


def test_what_nota_score_and_nota_efficiency_write_is_read(
    nota: Nota, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"path": "a.wav", "text": text, "task": "asr"} for text in ("one two three four", "a dog barks")]
    (tmp_path / "test.json").write_text(json.dumps({"annotation": rows}))
    (tmp_path / "asr.csv").write_text("testset_id,text\ntest0000,one two three\ntest0001,a dog barks\n")
    assert nota("score", tmp_path / "asr.csv", "--annotation", tmp_path / "test.json", "--task", "asr", "--json") == 0
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "asr.json").write_text(capsys.readouterr().out)
    flags = ["--rounds", 1, "--warm-up", 0, "--tokens", 2, "--audio-seconds", 1, "--seconds", 0]
    out = tmp_path / "run" / "efficiency.json"
    assert nota("efficiency", "--checkpoint", tiny_checkpoint, *flags, "--out", out) == 0
    capsys.readouterr()
    assert nota("compare", tmp_path / "run", "--no-references", "--json") == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    report = json.loads(out.read_text())
    # "1234" in place of "123": the normalizer writes digits together.
    assert found[0]["wer"] == pytest.approx(100 / 4)
    assert found[0]["memory_gib"] == report["peak_memory_gib"] > 0
    assert found[0]["latency_s"] == pytest.approx(report["ttft_from_features_s"] + report["tpot_s"])


def test_the_table_is_written_as_markdown_csv_and_png(
    nota: Nota, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measurement(tmp_path / "mine" / "efficiency.json", "mine|*", device="NVIDIA H200, 139 GiB")
    score(tmp_path / "mine" / "asr.json", "asr", wer=5.0)
    out = tmp_path / "out"
    assert nota("compare", tmp_path / "mine", "--out", out) == 0
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((out / "compare.csv").open()))
    assert [row["run"] for row in rows] == ["mine|*", "NLP-07", "CV-16", "SALMONN-3B", "SALMONN-7B", "CV-03"]
    assert rows[0]["wer"] == "5.0"
    assert rows[0]["cider_d_x100"] == ""  # missing, and ranked after the five that have it
    assert rows[0]["spider_rank"] == "6"
    text = (out / "compare.md").read_text()
    assert r"| mine\|\* | 1 \* |" in text
    assert "Caution: memory and latency were measured on different devices: NVIDIA H200, 139 GiB; V100" in text
    assert "- (6)" in text
    shown = capsys.readouterr()
    assert "NLP-07" in shown.out
    assert "different devices" in shown.err


def test_answers_to_questions_with_choices_are_ranked_by_accuracy(
    nota: Nota, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`B` is right and no exact match; where some rows have no choices, exact matches count for all of them."""
    for name, accuracy in (("first", 75.0), ("second", 25.0)):
        measurement(tmp_path / name / "efficiency.json", name)
        score(tmp_path / name / "qa.json", "qa", exact_match=100 - accuracy, accuracy=accuracy, choice_rows=2)
    assert nota("compare", tmp_path, "--no-references", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    ranked = {row["run"]: (row["qa"], row["qa_rank"], row["answers"]) for row in report["runs"]}
    assert ranked == {"first": (75.0, 1, "accuracy"), "second": (25.0, 2, "accuracy")}
    assert "QA: percent of answers by accuracy" in report["notes"]
    assert not any("judged" in caution for caution in report["cautions"])
    score(tmp_path / "second" / "qa.json", "qa", exact_match=80.0, accuracy=100.0, choice_rows=1)
    assert nota("compare", tmp_path, "--no-references", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["run"]: row["qa"] for row in report["runs"]} == {"first": 75.0, "second": 80.0}
    assert "answers were judged in different ways: accuracy; exact match" in report["cautions"]


@pytest.mark.parametrize("columns", [80, 140])
def test_no_figure_is_broken_over_two_lines(
    nota: Nota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    from nota_cli.console import out

    monkeypatch.setattr(out, "_width", columns)
    for index in range(12):
        folder = tmp_path / f"gemma2-2b-gptq-slim-{index}"
        measurement(folder / "efficiency.json", folder.name, peak_memory_gib=10.0 + index)
        score(folder / "asr.json", "asr", wer=10.0 + index)
        score(folder / "qa.json", "qa", exact_match=50.0 + index)
    assert nota("compare", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    broken = [line for line in lines if line.startswith("│") and line.count("│") > 2 and not line.split("│")[2].strip()]
    assert all(not "".join(line.split("│")[2:]).strip() for line in broken)


def test_a_crowded_picture_keeps_its_labels_apart(tmp_path: Path) -> None:
    from nota_cli.leaderboard.plot import picture

    runs = [
        run(f"a-rather-long-name-{index}", wer=5.0 + index % 3 / 10, memory=2.0 + index % 4 / 10, latency=0.3)
        for index in range(14)
    ]
    figure = picture(rank_runs([*runs, *reference_runs()]))
    for axes, shown in zip(figure.axes, (14 + 5, 14 + 4), strict=True):
        frame = axes.get_window_extent()
        names = [text for text in axes.texts if text.get_text() in {one.name for one in [*runs, *reference_runs()]}]
        boxes = [text.get_window_extent() for text in names]
        assert len(boxes) == shown
        for index, one in enumerate(boxes):
            assert frame.x0 <= one.x0
            assert one.x1 <= frame.x1
            assert not [names[place] for place, other in enumerate(boxes[:index]) if one.overlaps(other)]
    markers = {line.get_marker() for line in figure.axes[0].lines}
    assert len(markers) == 13  # shapes, not colors, tell runs apart


def test_without_matplotlib_the_remedy_is_named_and_nothing_written(
    nota: Nota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    assert nota("compare", "--out", tmp_path / "out") == 2
    assert 'pip install "nota-cli[plot]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert nota("compare", "--out", tmp_path / "out", "--no-plot") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.csv", "compare.md"]


def test_nothing_to_compare_is_said(nota: Nota, capsys: pytest.CaptureFixture[str]) -> None:
    assert nota("compare", "--no-references") == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert nota("compare", "--missing", "best") == 2
    assert "worst and skip" in capsys.readouterr().err
    assert set(METRICS) == {"wer", "spider", "memory", "latency", "qa"}


def test_a_figure_below_zero_is_refused(tmp_path: Path) -> None:
    path = measurement(tmp_path / "a.json", "a", peak_memory_gib=-1.0)
    with pytest.raises(DataError, match=r"a\.json: peak_memory_gib is -1"):
        read_runs([str(path)])


def test_damaged_reports_of_a_folder_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "asr.json").write_text('{"task": "asr", ')
    with pytest.raises(DataError, match=r"broken/asr\.json: cannot be read as JSON"):
        read_runs([str(tmp_path)])
    score(tmp_path / "whole" / "asr.json", "asr")
    assert [one.name for one in read_runs([str(tmp_path)])] == ["whole"]
    assert "broken/asr.json: cannot be read as JSON" in capsys.readouterr().err


def test_a_folder_given_twice_is_one_run(tmp_path: Path) -> None:
    score(tmp_path / "mine" / "asr.json", "asr")
    folder = str(tmp_path / "mine")
    assert [one.name for one in read_runs([folder, folder])] == ["mine"]


def test_a_folder_in_a_files_place_is_said(nota: Nota, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "compare.png").mkdir()
    assert nota("compare", "--out", tmp_path) == 2
    assert "compare.png: it is a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["compare.png"]


def test_long_names_of_many_runs_stand_below_the_panels() -> None:
    from nota_cli.leaderboard.plot import picture

    runs = [run(f"long-{'name-' * 10}{index}", wer=5.0 + index, memory=1.0 + index, latency=0.1) for index in range(30)]
    figure = picture(rank_runs(runs))
    key = [text for text in figure.texts if "name" in text.get_text()]
    assert [text.get_text().split()[0] for text in key] == [str(number) for number in range(1, 31)]
    boxes = [text.get_window_extent() for text in key]
    for index, box in enumerate(boxes):
        assert 0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 <= box.y1 <= figure.axes[0].get_window_extent().y0
        assert not any(box.overlaps(other) for other in boxes[:index])
    assert {text.get_text() for text in figure.axes[0].texts} >= {str(number) for number in range(1, 31)}


def test_names_are_no_formulas_and_a_panel_may_be_empty(tmp_path: Path) -> None:
    from nota_cli.leaderboard.plot import draw, picture

    named = [run("$x^$", wer=5.0, memory=1.0), run("$y_$", wer=5.0, memory=1.0, latency=1.0)]
    draw(rank_runs(named), tmp_path / "a.png")
    figure = picture(rank_runs([run("mine", wer=5.0)]))
    for axes in figure.axes:
        assert "no run has both figures" in [text.get_text() for text in axes.texts]
        assert not [*axes.get_xticks(), *axes.get_yticks()]
