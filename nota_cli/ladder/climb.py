"""`nota ladder` step by step: export, infer, measure and score each rung; a rung that fails leaves the others alone."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nota_cli.console import debug, say, waiting, warn
from nota_cli.efficiency.report import read_report
from nota_cli.errors import DataError, NotaError
from nota_cli.inference.journal import journal_path
from nota_cli.inference.provenance import (
    combined,
    file_hash,
    part_files,
    recipe_values,
    value_hash,
    weight_hashes,
    weight_paths,
)
from nota_cli.inference.report import report_path
from nota_cli.ladder.commands import Runner, run_command
from nota_cli.ladder.figures import Answers, score_answers
from nota_cli.ladder.rungs import REFERENCE, Rung
from nota_cli.ladder.sets import EvaluationSet
from nota_cli.ladder.state import State, only_one, open_state
from nota_cli.parsing import decode, parse_json
from nota_cli.recipe.exported import MANIFEST
from nota_cli.recipe.schema import BaseRecipe

DEVICE = "cpu"
"""Where every rung runs, the reference too: exports have no other."""
PICKLED = {".bin", ".pth", ".pt"}  # weights that nothing reads where the same folder has safetensors


@dataclass(frozen=True)
class Plan:
    """What a ladder is made of.

    Attributes:
        recipe: the system.
        source: how commands are given it: its name or path.
        options: further options that go with that, such as `--set`.
        rungs: the reference first.
        sets: what they are run over.
        out: the ladder's folder.
        audio_seconds: length of the clip of noise that times are measured with.
        seconds: time for measuring, as `nota efficiency --seconds`.
    """

    recipe: BaseRecipe
    source: str
    options: Sequence[str]
    rungs: Sequence[Rung]
    sets: Sequence[EvaluationSet]
    out: Path
    audio_seconds: float = 10.0
    seconds: float = 20.0


@dataclass
class Result:
    """What became of a rung.

    Attributes:
        rung: which one.
        failure: why it is not complete, on one line.
        bytes: on disk, of the artifact.
        answers: by the name of the set.
        real_time_factor: seconds of computing for each second of audio, over all sets; of the rows that the last run
            of each has answered, where it went on with one that was killed.
        efficiency: as `nota efficiency` measured it.
    """

    rung: Rung
    failure: str | None = None
    bytes: int | None = None
    answers: dict[str, Answers] = field(default_factory=dict)
    real_time_factor: float | None = None
    efficiency: dict[str, Any] | None = None

    @property
    def peak_bytes(self) -> int | None:
        """Largest resident set of the process that loaded and measured the artifact, where the system tells."""
        memory = {} if self.efficiency is None else self.efficiency["memory_mb"]
        peaks = [memory[name] for name in ("load_peak", "running_peak") if memory.get(name) is not None]
        return round(max(peaks) * 1e6) if peaks else None

    def seconds(self, name: str) -> float | None:
        """The median of a stage's time, such as `ttft_from_waveform` or `tpot`."""
        times = {} if self.efficiency is None else self.efficiency["seconds"]
        return times[name]["median"] if name in times else None


class _StepError(NotaError):
    """A command of a rung failed."""


def climb(plan: Plan, run: Runner = run_command) -> list[Result]:
    """Do whatever earlier runs of the same ladder have left to do.

    Args:
        plan: what to do.
        run: runs nota's commands.

    Returns:
        One result for each rung, in the order of the plan.

    Raises:
        UsageError: the folder cannot be written, is another system's, or another ladder is at work there.
    """
    weights = weight_paths(plan.recipe)
    source = value_hash([recipe_values(plan.recipe), combined(weight_hashes(weights))])
    with only_one(plan.out):
        state = open_state(plan.out, source)
        for each in plan.sets:
            each.write(plan.out)
        return [_climb(_Climber(plan, state, run, Result(rung)), weights) for rung in plan.rungs]


def _climb(climber: "_Climber", weights: dict[str, Path]) -> Result:
    """One rung, with the reason if it fails."""
    try:
        climber.climb(weights)
    except (_StepError, DataError) as error:
        climber.result.failure = str(error)
        warn(f"{climber.rung.name}: {error}")
    return climber.result


class _Climber:
    """One rung: its steps in order, each done once."""

    def __init__(self, plan: Plan, state: State, run: Runner, result: Result) -> None:
        self.plan, self.state, self.run, self.result = plan, state, run, result
        self.rung = result.rung
        self.folder = plan.out / self.rung.name
        self.artifact = self.folder / "export"

    def climb(self, weights: dict[str, Path]) -> None:
        """Fill in the result.

        Raises:
            _StepError: a step failed; what was there before it is in the result.
        """
        system = [self.plan.source, *self.plan.options]
        if self.rung == REFERENCE:
            self.result.bytes = sum(path.stat().st_size for path in _read_files(weights))
        else:
            self._export()
            system = [str(self.artifact)]
            self.result.bytes = sum(path.stat().st_size for path in self.artifact.rglob("*") if path.is_file())
        computed = heard = 0.0
        for each in self.plan.sets:
            report = self._infer(each, system)
            if report["real_time_factor"] is not None:
                heard += report["heard_seconds"]
                computed += report["real_time_factor"] * report["heard_seconds"]
        self.result.real_time_factor = computed / heard if heard else None
        self._measure(system)

    def _export(self) -> None:
        for left in self.folder.glob(f".{self.artifact.name}.*"):
            shutil.rmtree(left)  # of an export that was killed
        options = self.rung.export_options()
        command = ["export", self.plan.source, *self.plan.options, *options, "--out", str(self.artifact)]
        self._step("export", "exporting", value_hash(options), command, [self.artifact], self.artifact / MANIFEST)

    def _infer(self, each: EvaluationSet, system: list[str]) -> dict[str, Any]:
        annotation, csv = each.file(self.plan.out), self.folder / f"{each.name}.csv"
        report = report_path(csv)
        command = ["infer", "--recipe", *system, "--task", each.task, "--annotation", str(annotation)]
        command += ["--audio-root", str(each.audio_root), "--device", DEVICE, "--out", str(csv)]
        key = value_hash([file_hash(annotation), str(each.audio_root.resolve())])
        self._step(each.name, f"running over {each.name}", key, command, [csv, report, journal_path(csv)], report)
        try:
            values: dict[str, Any] = parse_json(decode(report.read_bytes()))
            self.result.answers[each.name] = score_answers(csv, annotation, each.task, set(values["looped"]))
        except (OSError, ValueError, KeyError, DataError) as error:
            raise _StepError(f"{csv} cannot be scored: {error}") from error
        return values

    def _measure(self, system: list[str]) -> None:
        plan, out = self.plan, self.folder / "efficiency.json"
        options = ["--audio-seconds", f"{plan.audio_seconds:g}", "--seconds", f"{plan.seconds:g}"]
        command = ["efficiency", "--recipe", *system, "--device", DEVICE, *options, "--out", str(out)]
        self._step("efficiency", "measuring", value_hash(options), command, [out], out)
        self.result.efficiency = read_report(out)

    def _step(
        self, name: str, doing: str, key: str, command: list[str], outputs: Sequence[Path], last_output: Path
    ) -> None:
        step = f"{self.rung.name}/{name}"
        if self.state.is_finished(step, key, last_output):
            debug(f"{step}: kept from before")
            return
        self.state.begin(step, key, outputs)
        say(f"{self.rung.name}: {doing} ...")
        with waiting(f"{self.rung.name}: {doing}"):
            failure = self.run(command, self.folder / "log.txt")
        if failure is not None:
            raise _StepError(f"{doing} failed: {failure}")


def _read_files(weights: dict[str, Path]) -> Iterator[Path]:
    """Files that the system is read from, each once; of a folder's weights in two formats, the safetensors."""
    seen = set()
    for path in weights.values():
        files = [file for _, file in part_files(path)]
        folders = {file.parent for file in files if file.suffix == ".safetensors"}
        for file in files:
            if file.suffix in PICKLED and file.parent in folders:
                continue
            real = file.resolve()
            if real not in seen:
                seen.add(real)
                yield real
