"""What a run leaves to look at: a line of JSON for each entry, a picture, a summary, and a tracker by choice."""

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from nota_cli.console import debug
from nota_cli.errors import RecipeError
from nota_cli.files import atomic_path, write_text
from nota_cli.recipe.schema import Recipe
from nota_cli.training.trainer import Step

Track = Callable[[dict[str, float], int], None]
METRICS_FILE = "metrics.jsonl"
LOSSES = ("loss", "ctc", "alignment", "label", "distillation", "states")


class Log:
    """One JSON line an entry, appended by the main process; entries of a cut run after step `first` are dropped.

    Args:
        path: the file.
        first: steps that were done before.
        active: whether this process writes.
        track: is given each entry's figures and step as well.
    """

    def __init__(self, path: Path, first: int, active: bool, track: Track | None = None) -> None:
        self.path, self.active, self.track = path, active, track
        if active:
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if first and path.exists() else []
            whole = [line for line in lines if line.endswith("\n")]  # a kill may have cut the last one
            write_text(path, "".join(line for line in whole if json.loads(line)["step"] <= first))

    def write(self, entry: dict[str, float]) -> None:
        """Append an entry, which has a `step`."""
        if self.active:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            if self.track is not None:
                self.track({name: value for name, value in entry.items() if name != "step"}, int(entry["step"]))

    def entries(self) -> list[dict[str, float]]:
        """All that were written."""
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def draw(self) -> None:
        """Losses and validation figures over the steps as a picture beside the file, where matplotlib is installed."""
        if not self.active:
            return
        try:
            from matplotlib.figure import Figure
        except ImportError:
            debug('no picture of the losses: pip install "nota-cli[plot]"')
            return
        entries = self.entries()
        names = [name for name in dict.fromkeys(key for entry in entries for key in entry) if name in LOSSES]
        figures = [name for name in dict.fromkeys(key for entry in entries for key in entry if "loss" not in entry)]
        figures = [name for name in figures if name not in ("step", *LOSSES)]
        figure = Figure(figsize=(10, 4), layout="constrained")
        for panel, (title, curves) in enumerate((("training", names), ("validation", figures))):
            axes = figure.add_subplot(1, 2, panel + 1, title=title, xlabel="step")
            for name in curves:
                points = [(entry["step"], entry[name]) for entry in entries if name in entry]
                axes.plot([step for step, _ in points], [value for _, value in points], marker=".", label=name)
            if curves:
                axes.legend()
        with atomic_path(self.path.with_suffix(".png")) as part:
            figure.savefig(part, format="png", dpi=120)


def check_tracker(name: str) -> None:
    """Whether the package of a tracker is installed.

    Raises:
        RecipeError: it is not.
    """
    if name != "none" and find_spec(name) is None:
        raise RecipeError(f"train.tracker is {name}, which is not installed: pip install {name}, or set it to none")


def start_tracker(accelerator: Accelerator, recipe: Recipe, run: str) -> Track | None:
    """Begin a run of the recipe's tracker, by accelerate; end it with `finish()` of each of its `trackers`.

    Args:
        accelerator: made with the tracker's name as `log_with`.
        recipe: its settings of training are noted.
        run: name of the run.
    """
    if recipe.train.tracker == "none":
        return None
    kinds = (int, float, str, bool)
    config = {name: value for name, value in recipe.train.model_dump().items() if isinstance(value, kinds)}
    # wandb would write into the folder that the command runs in.
    options = {"wandb": {"dir": str(accelerator.logging_dir)}}
    accelerator.init_trackers(run, config={"recipe": recipe.name, **config}, init_kwargs=options)
    return lambda figures, step: accelerator.log(figures, step=step)


class Pace:
    """How fast a run is, and how much of its time it waits for data.

    Args:
        processes: that share each batch; each counts its own.
    """

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.started = time.monotonic()
        self.steps, self.clips, self.audio_seconds, self.wait = 0, 0, 0.0, 0.0

    def add(self, step: Step) -> None:
        """Count a step."""
        self.steps += 1
        self.clips += step.clips * self.processes
        self.audio_seconds += step.audio_seconds * self.processes
        self.wait += step.wait

    def figures(self) -> dict[str, float]:
        """Clips and seconds of audio a second, and the share of the time that the main process waited for data."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        return {
            "clips_per_second": round(self.clips / seconds, 2),
            "audio_seconds_per_second": round(self.audio_seconds / seconds, 1),
            "data_wait": round(self.wait / seconds, 3),
        }

    def summary(self) -> dict[str, Any]:
        """The figures of the whole call, and how long it took."""
        return {"steps": self.steps, "seconds": round(time.monotonic() - self.started, 1), **self.figures()}
