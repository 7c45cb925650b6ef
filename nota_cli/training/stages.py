"""Stages of a recipe in turn: each starts from where the one before it ended, and a killed run goes on in its stage."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from nota_cli.console import say
from nota_cli.errors import CheckpointError, UsageError
from nota_cli.files import write_text
from nota_cli.recipe.load import starting_from
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.training import StageQuantize
from nota_cli.training.loop import Trained, run_stamp, train
from nota_cli.training.state import STATE_FILE, drop_states

STAMP_FILE = "stage.json"
"""In a stage's `trainer` folder: which recipe the stage was begun with."""
QuantizeStep = Callable[[Recipe, Path, StageQuantize], object]
"""Turns the decoder of a recipe's checkpoint into GPTQ, in a new checkpoint folder."""


@dataclass(frozen=True)
class StageRun:
    """One stage as it is run.

    Attributes:
        number: of the stage, from 1.
        count: how many stages there are.
        recipe: what is trained; `train.init` names the result of the stage before it.
        folder: its checkpoint folder.
        quantize: what becomes of its decoder.
        follows: whether it starts from the result of the stage before it.
    """

    number: int
    count: int
    recipe: Recipe
    folder: Path
    quantize: StageQuantize | None = None
    follows: bool = False

    @property
    def result(self) -> Path:
        """The folder that the next stage starts from."""
        return self.folder if self.quantize is None else self.folder.with_name(f"{self.folder.name}-gptq")

    @property
    def trained(self) -> bool:
        """Whether all its steps are done."""
        unfinished = (self.folder / "trainer" / STATE_FILE).exists()
        return not unfinished and (self.folder / "metrics.json").is_file() and self._stamped

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.trained and (self.result / "recipe.yaml").is_file()

    @property
    def begun(self) -> bool:
        """Whether anything of it is there."""
        return (
            self._stamped or (self.folder / "trainer" / STATE_FILE).exists() or (self.folder / "recipe.yaml").exists()
        )

    @property
    def _stamped(self) -> bool:
        return (self.folder / "trainer" / STAMP_FILE).is_file()

    def check_stamp(self) -> None:
        """Whether what is there was begun with this recipe.

        Raises:
            CheckpointError: it was begun with another one.
        """
        file = self.folder / "trainer" / STAMP_FILE
        if not file.is_file() and (self.folder / "recipe.yaml").exists():
            raise CheckpointError(
                f"{self.folder} holds a checkpoint that no stage of this recipe made: give another --out, or --restart "
                "to replace it"
            )
        if file.is_file() and json.loads(file.read_text(encoding="utf-8"))["recipe"] != run_stamp(self.recipe):
            raise CheckpointError(
                f"{self.folder} was begun with another recipe of stage {self.number}; resume with that one, or train "
                f"the stage anew: --stage {self.number} --restart"
            )

    def begin(self) -> None:
        """Make the folder one of a stage that has just begun; what an earlier run left no longer counts."""
        drop_states(self.folder / "trainer")
        (self.folder / "metrics.json").unlink(missing_ok=True)
        self.drop_result()
        write_text(self.folder / "trainer" / STAMP_FILE, json.dumps({"recipe": run_stamp(self.recipe)}) + "\n")

    def drop_result(self) -> None:
        """Remove the quantized copy of an earlier run."""
        if self.quantize is not None:
            (self.result / "recipe.yaml").unlink(missing_ok=True)
            shutil.rmtree(self.result / "decoder", ignore_errors=True)


def plan_stages(recipe: Recipe, folder: Path) -> list[StageRun]:
    """The stages of a recipe and where their results go: the last stage's to `folder`, the others' beside it."""
    runs: list[StageRun] = []
    count = len(recipe.stages)
    for number, stage in enumerate(recipe.stages, start=1):
        own = stage.recipe()
        follows = number > 1 and own.train.init is None
        if follows:
            own = starting_from(own, runs[-1].result)
        here = folder if number == count else folder.with_name(f"{folder.name}-stage{number}")
        runs.append(StageRun(number, count, own, here, stage.quantize, follows))
    return runs


def train_stages(
    runs: Sequence[StageRun],
    quantize: QuantizeStep,
    *,
    only: int | None = None,
    resume: bool = False,
    restart: bool = False,
) -> Iterator[tuple[StageRun, Trained]]:
    """Train stages in turn; yields each that was trained, once its result is there.

    Args:
        runs: of `plan_stages`.
        quantize: makes the quantized results.
        only: number of the one stage to train; those before it have to be done.
        resume: go on in the stage where an earlier call ended.
        restart: throw away what is there, of all stages or of the one.

    Raises:
        UsageError: there is no stage `only`, or `resume` and `restart` are both asked for.
        CheckpointError: something is there and neither was asked for, it was begun with another recipe, or a stage that
            comes before `only` is not done.
        NotaError: as `nota_cli.training.loop.train`.
    """
    if resume and restart:
        raise UsageError("--resume goes on with a run and --restart throws it away: choose one")
    if only is not None and not 1 <= only <= len(runs):
        raise UsageError(f"--stage {only}: the recipe has stages 1 to {len(runs)}")
    chosen = [run for run in runs if only in (None, run.number)]
    _check(runs, chosen, resume=resume, restart=restart)
    processes = PartialState()
    processes.wait_for_everyone()
    if restart and processes.is_main_process:
        for run in chosen:
            run.begin()
    for run in chosen:
        processes.wait_for_everyone()
        if run.done:
            if processes.is_main_process:
                say(f"stage {run.number} of {run.count} is done: {run.result}")
            continue
        if processes.is_main_process:
            say(f"stage {run.number} of {run.count}: {run.recipe.name}")
        yield run, _train(run, quantize, processes)


def _check(runs: Sequence[StageRun], chosen: Sequence[StageRun], *, resume: bool, restart: bool) -> None:
    first = chosen[0]
    if first.follows and not runs[first.number - 2].done:
        raise CheckpointError(
            f"stage {first.number} starts from {runs[first.number - 2].result}, which stage {first.number - 1} has not "
            f"finished; train that one first: --stage {first.number - 1}, or all stages without --stage"
        )
    if restart:
        return
    begun = [run for run in chosen if run.begun]
    for run in begun:
        if not resume:
            raise CheckpointError(
                f"{run.folder} holds what stage {run.number} of an earlier run left: add --resume to go on after it, "
                "or --restart to drop it; or give another --out"
            )
        run.check_stamp()
    before = runs[: first.number - 1]
    if resume and not begun and not any(run.begun for run in before):
        raise CheckpointError(f"nothing to resume: no stage has been begun in {first.folder}. Start without --resume.")


def _train(run: StageRun, quantize: QuantizeStep, processes: PartialState) -> Trained:
    """One stage to its result, from where an earlier call left it."""
    trained, resume = run.trained, (run.folder / "trainer" / STATE_FILE).exists()
    processes.wait_for_everyone()  # every process has looked before one changes what is there
    recipe = run.recipe
    if run.follows and recipe.train.init is not None and (Path(recipe.train.init) / "decoder").is_dir():
        # What an earlier stage made of the decoder is what this one works on, whatever the recipe names.
        path = str(Path(recipe.train.init) / "decoder")
        decoder = recipe.decoder.model_copy(update={"path": path, "config": None, "tokenizer": None})
        recipe = recipe.model_copy(update={"decoder": decoder})
    if trained:
        metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
        done = Trained(run.folder, int(metrics.pop("steps")), metrics)
    else:
        if not resume and processes.is_main_process:
            run.begin()
        processes.wait_for_everyone()
        done = train(recipe, run.folder, resume=resume, restart=not resume)
    if run.quantize is not None and processes.is_main_process:
        say(f"stage {run.number} of {run.count}: its decoder to {run.quantize.bits}-bit GPTQ")
        run.drop_result()
        quantize(recipe.with_checkpoint(run.folder), run.result, run.quantize)
    processes.wait_for_everyone()
    return done
