"""`nota ladder`: its rows hold what its parts say one by one; it goes on where it was stopped, past rungs that fail."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from helpers.paths import REPOSITORY
from nota_cli.cli import main
from nota_cli.cli.process import INTERRUPTED
from nota_cli.data.corpora.esc10 import caption_accuracy_of_csv
from nota_cli.errors import UsageError
from nota_cli.inference.journal import Journal
from nota_cli.ladder.climb import Plan, Result, climb
from nota_cli.ladder.commands import reason_of
from nota_cli.ladder.rungs import REFERENCE, Rung
from nota_cli.ladder.sets import read_sets
from nota_cli.ladder.table import csv_text, machines_of, markdown, records
from nota_cli.leaderboard.markdown import markdown_text
from nota_cli.recipe.load import load_system
from nota_cli.score.report import ScoreOptions, score_submission

GRAPHS = Rung("onnx", 32, 32)
LLAMA = Rung("gguf", 32, 32)


class InProcess:
    """Runs commands in this process, where torch is imported already; counts them, and may be stopped at one.

    Graphs take half a minute to write, so those of the session are copied to where a command would write the same.
    """

    def __init__(self, graphs: Path, stop_at: str = "") -> None:
        self.commands: list[list[str]] = []
        self.graphs, self.stop_at = graphs, stop_at

    def __call__(self, arguments: Sequence[str], log: Path) -> str | None:
        self.commands.append(list(arguments))
        if arguments[0] == "export" and "gguf" not in arguments:
            shutil.copytree(self.graphs, arguments[-1])
            return None
        written, status = io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(written), redirect_stderr(written):
            patch.setattr("sys.argv", ["nota", *arguments])
            if self.stop_at and self.stop_at in arguments:
                patch.setattr(Journal, "append", stop_after(Journal.append))
            try:
                main()
            except SystemExit as end:
                status = int(end.code or 0)
        if status == INTERRUPTED:  # a process of its own would be ended together with the ladder
            raise KeyboardInterrupt
        return None if status == 0 else reason_of(status, written.getvalue(), log)


def stop_after(append: Callable[..., None]) -> Callable[..., None]:
    """A journal that is written once, and then Ctrl-C comes."""

    def stopping(journal: Journal, entries: list[Any]) -> None:
        append(journal, entries)
        if entries:
            raise KeyboardInterrupt

    return stopping


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The shipped model in torch, as graphs, and for llama.cpp where a file is in the way, over some of its samples."""
    samples = REPOSITORY / "checkpoints" / "tiny" / "samples"
    sets = read_sets([samples / "asr.json", samples / "aac.json"], [], [], 3)
    options = ["--set", "generate.batch_size=1"]
    recipe = load_system("tiny", None, options[1:])
    out = tmp_path_factory.mktemp("ladder") / "out"
    (out / LLAMA.name / "export").mkdir(parents=True)
    (out / LLAMA.name / "export" / "mine.txt").write_text("not the ladder's")
    return Plan(recipe, "tiny", options, [REFERENCE, GRAPHS, LLAMA], sets, out, 1.0, 0.0)


@pytest.fixture(scope="module")
def stopped(plan: Plan, exported_tiny: Path) -> list[list[str]]:
    """The commands of a ladder that was stopped after the first row of the reference's captions."""
    run = InProcess(exported_tiny, stop_at=str(plan.out / "torch" / "aac.csv"))
    with pytest.raises(KeyboardInterrupt):
        climb(plan, run)
    return run.commands


@pytest.fixture(scope="module")
def results(plan: Plan, stopped: list[list[str]], exported_tiny: Path) -> tuple[list[Result], list[list[str]]]:
    """What the same ladder makes of it when it goes on, and the commands that it took."""
    run = InProcess(exported_tiny)
    return climb(plan, run), run.commands


def test_a_stopped_ladder_does_only_what_is_left(
    plan: Plan, stopped: list[list[str]], results: tuple[list[Result], list[list[str]]]
) -> None:
    _, resumed = results
    graphs = ["export", "infer", "infer", "efficiency"]
    assert [command[0] for command in stopped] == ["infer", "infer"]
    assert [command[0] for command in resumed] == ["infer", "efficiency", *graphs]
    assert resumed[0] == stopped[-1]
    report = json.loads((plan.out / "torch" / "aac.run.json").read_text())
    assert (report["resumed_rows"], report["rows"]) == (1, 3)


def test_rows_hold_what_scores_and_measurements_say(plan: Plan, results: tuple[list[Result], list[list[str]]]) -> None:
    rows = {row["rung"]: row for row in records(results[0])}
    for rung in (REFERENCE, GRAPHS):
        row, folder = rows[rung.name], plan.out / rung.name
        assert row["failure"] is None
        for each, figure in ((plan.sets[0], "wer"), (plan.sets[1], "cider_d_x100")):
            options = ScoreOptions(samples=2_000)
            scored = score_submission(folder / f"{each.name}.csv", each.file(plan.out), each.task, options)
            entry = row["sets"][each.name]["figures"][figure]
            assert entry["value"] == pytest.approx(scored[figure])
            assert entry["interval"] == pytest.approx(scored["intervals"][figure])
        share = caption_accuracy_of_csv(folder / "aac.csv", plan.sets[1].file(plan.out))
        assert row["sets"]["aac"]["figures"]["right_captions"]["value"] == pytest.approx(100 * share)
        measured = json.loads((folder / "efficiency.json").read_text())
        assert row["tpot_s"] == measured["seconds"]["tpot"]["median"]
        assert row["ttft_s"] == measured["seconds"]["ttft_from_waveform"]["median"]
        peak = max(measured["memory_mb"]["load_peak"], measured["memory_mb"]["running_peak"])
        assert row["peak_rss_bytes"] == pytest.approx(1e6 * peak, abs=1e3)
    assert rows[GRAPHS.name]["bytes"] == sum(
        path.stat().st_size for path in (plan.out / GRAPHS.name / "export").iterdir()
    )
    shipped = REPOSITORY / "checkpoints" / "tiny"
    names = ("recipe.yaml", "model.safetensors", "adapter/*", "decoder/*")
    parts = [path for name in names for path in shipped.glob(name) if path.suffix != ".md"]
    assert rows["torch"]["bytes"] == sum(path.stat().st_size for path in parts)
    heard = [json.loads((plan.out / "torch" / f"{name}.run.json").read_text()) for name in ("asr", "aac")]
    busy = sum(report["real_time_factor"] * report["heard_seconds"] for report in heard)
    total = sum(report["heard_seconds"] for report in heard)
    assert rows["torch"]["real_time_factor"] == pytest.approx(busy / total)


def test_changes_are_to_the_reference(plan: Plan, results: tuple[list[Result], list[list[str]]]) -> None:
    reference, graphs, _ = records(results[0])
    for name in ("asr", "aac"):
        for figure, entry in graphs["sets"][name]["figures"].items():
            theirs = reference["sets"][name]["figures"][figure]
            assert entry["change"] == pytest.approx(entry["value"] - theirs["value"])
            assert theirs["change"] == 0
            assert theirs["change_interval"] == [0, 0]


def test_a_rung_that_fails_is_a_row_that_says_why(plan: Plan, results: tuple[list[Result], list[list[str]]]) -> None:
    rows = records(results[0])
    assert rows[2]["rung"] == "gguf-e32-f16"
    assert rows[2]["failure"].startswith(f"{plan.out / LLAMA.name / 'export'} is there")
    assert rows[2]["bytes"] is None
    text = markdown(rows, plan, "nota ladder", machines_of(results[0]))
    (line,) = [line for line in text.splitlines() if line.startswith("| gguf-e32-f16")]
    assert line.endswith(f"{markdown_text(rows[2]['failure'])} |")
    table = list(csv.DictReader(csv_text(rows).splitlines()))
    assert [line["failure"] == "" for line in table] == [True, True, False]
    assert float(table[1]["asr.wer.change"]) == rows[1]["sets"]["asr"]["figures"]["wer"]["change"]


def command_of(plan: Plan, *more: object) -> list[object]:
    words: list[object] = ["ladder", plan.source, *plan.options, "--audio-seconds", 1, "--seconds", 0]
    words += [word for each in plan.sets for word in ("--annotation", each.source)]
    return [*words, "--limit", 3, "--encoder-bits", 32, "--decoder-bits", 32, "--out", plan.out, *more]


@pytest.mark.usefixtures("results")
def test_a_finished_ladder_is_written_again_from_what_is_there(
    plan: Plan, nota: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in plan.out.rglob("*/*") if path.is_file()}
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert nota(*command_of(plan, "--runtimes", "torch,onnx", "--json")) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert [row["rung"] for row in report["rungs"]] == ["torch", GRAPHS.name]
    assert "ladder.png needs matplotlib" in captured.err
    assert not (plan.out / "ladder.png").exists()
    after = {path: path.stat().st_mtime_ns for path in before}
    changed = {path.parent.name for path, time in after.items() if time != before[path]}
    assert changed <= {"sets"}
    assert (plan.out / "ladder.md").read_text().count("| onnx-e32-d32 |") == 1


@pytest.mark.usefixtures("results")
def test_a_rung_that_was_named_and_fails_makes_the_exit_status_1(
    plan: Plan, tmp_path: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    copy = replace(plan, out=Path(shutil.copytree(plan.out, tmp_path / "copy")))
    graph = copy.out / GRAPHS.name / "export" / "decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    (copy.out / GRAPHS.name / "efficiency.json").unlink()
    assert nota(*command_of(copy, "--runtimes", "onnx", "--json")) == 1
    captured = capsys.readouterr()
    torch, graphs = json.loads(captured.out)["rungs"]
    assert torch["failure"] is None
    assert "decoder.onnx" in graphs["failure"]
    assert "cut off or damaged" in graphs["failure"]
    assert graphs["sets"]["asr"]["figures"]["wer"]["value"] >= 0
    assert "1 of 2 rungs failed (onnx-e32-d32)" in captured.err
    assert (copy.out / "ladder.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("results")
def test_the_folder_of_another_system_is_refused(plan: Plan) -> None:
    other = replace(plan, recipe=load_system(plan.source, None, ["generate.max_new_tokens=3"]))
    with pytest.raises(UsageError, match="another system"):
        climb(other, InProcess(Path()))


@pytest.mark.usefixtures("results")
def test_other_clips_are_run_again_and_nothing_else(plan: Plan, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(plan.out, tmp_path / "copy"))
    sets = [replace(plan.sets[0], rows=plan.sets[0].rows[:2]), plan.sets[1]]
    run = InProcess(Path())
    fewer = climb(replace(plan, sets=sets, out=copy, rungs=[GRAPHS]), run)
    assert [command[0] for command in run.commands] == ["infer"]
    assert {name: len(answers.texts) for name, answers in fewer[0].answers.items()} == {"asr": 2, "aac": 3}


@pytest.mark.parametrize("rung", [GRAPHS, Rung("onnx", 16, 16), Rung("onnx", 8, 4), LLAMA])
def test_export_takes_the_options_of_every_rung(
    rung: Rung, tmp_path: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there").write_text("")
    assert nota("export", "tiny", *rung.export_options(), "--out", tmp_path) == 2
    assert str(tmp_path) in capsys.readouterr().err
