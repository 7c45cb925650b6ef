"""`nota train`: what a recipe trains, into a checkpoint folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.options import RecipeArgument, SetOption
from nota_cli.console import say, table
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.recipe.schema import Recipe
    from nota_cli.recipe.training import StageQuantize
    from nota_cli.training.loop import Trained

app = typer.Typer()


@app.command(
    epilog="Example: `nota train tiny-samples --out checkpoints/mine`, a minute's run on the sample recordings. "
    "Your own data: a recipe with `base: tiny-samples` and your annotation under `data.train`; "
    "`nota data prepare` writes one. `nota train tiny-stages` needs the corpora that the shipped model was trained on."
)
def train(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder to write (default: checkpoints/RECIPE).")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint folder whose weights training starts from.")] = None,
    stage: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of a recipe with `stages`, train the N-th alone.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run: the same command with this flag.")
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Discard what an earlier run left there, finished or not, and start again."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Two steps with random weights: memory, time and disk; nothing is written."),
    ] = False,
    settings: SetOption = None,
) -> None:
    """Train a recipe's model, stage by stage if it has stages; resume an interrupted run with `--resume`."""
    from nota_cli.recipe.load import load_recipe

    loaded = load_recipe(recipe, settings)
    if stage is not None and not loaded.stages:
        raise UsageError(f"--stage {stage}: recipe {loaded.name!r} has no stages; leave --stage out")
    if stage is not None and stage > len(loaded.stages):
        raise UsageError(f"--stage {stage}: recipe {loaded.name!r} has stages 1 to {len(loaded.stages)}")
    if init is not None:
        loaded = _starting_from(loaded, init, stage or 1)
    if dry_run:
        if resume or restart:
            raise UsageError("--dry-run trains nothing: leave --resume and --restart out")
        _dry_run(loaded, stage)
        return
    folder = out or Path("checkpoints") / loaded.name
    if loaded.stages:
        _train_stages(loaded, recipe, folder, only=stage, resume=resume, restart=restart)
        return
    from nota_cli.cli.guards import check_checkpoint
    from nota_cli.recipe.sources import with_data_there

    loaded = with_data_there(loaded, recipe)
    check_checkpoint(folder, loaded)
    say(f"loading recipe {loaded.name} ...")
    from nota_cli.imports import heavy_imports

    with heavy_imports():
        from nota_cli.training.loop import train as train_recipe

    _report("Training", train_recipe(loaded, folder, resume=resume, restart=restart))


def _starting_from(recipe: "Recipe", init: Path, stage: int) -> "Recipe":
    """The recipe, its training or that of one of its stages begun from a checkpoint folder."""
    from nota_cli.recipe.load import starting_from

    if not recipe.stages:
        return starting_from(recipe, init)
    stages = list(recipe.stages)
    stages[stage - 1] = starting_from(stages[stage - 1], init)
    return recipe.model_copy(update={"stages": stages})


def _train_stages(recipe: "Recipe", name: str, folder: Path, *, only: int | None, resume: bool, restart: bool) -> None:
    from nota_cli.cli.guards import check_checkpoint
    from nota_cli.imports import heavy_imports
    from nota_cli.recipe.sources import stages_with_data_there

    recipe = stages_with_data_there(recipe, name)
    say(f"loading recipe {recipe.name} ...")
    with heavy_imports():
        from nota_cli.compression.gptq_checkpoint import quantize_checkpoint
        from nota_cli.training.stages import plan_stages, train_stages

    def quantize(trained: "Recipe", out: Path, spec: "StageQuantize") -> None:
        quantize_checkpoint(trained, out, bits=spec.bits, group_size=spec.group_size, clips=spec.clips)

    runs = plan_stages(recipe, folder)
    for run in runs:
        check_checkpoint(run.folder, run.recipe)
        if run.result != run.folder:
            check_checkpoint(run.result, run.recipe)
    for run, done in train_stages(runs, quantize, only=only, resume=resume, restart=restart):
        _report(f"Stage {run.number} of {run.count}", done)


def _dry_run(recipe: "Recipe", stage: int | None) -> None:
    """Print what two steps need, of a recipe or of each of its stages."""
    from nota_cli.efficiency.memory import meter
    from nota_cli.imports import heavy_imports

    stages = [each.recipe() for each in recipe.stages] or [recipe]
    chosen = [each for number, each in enumerate(stages, start=1) if stage in (None, number)]
    with heavy_imports():
        from nota_cli.training.dry_run import dry_run

    hours, disk = 0.0, 0
    for each in chosen:
        say(f"building recipe {each.name} with random weights ...")
        done = dry_run(each, meter)
        hours, disk = hours + done.hours, disk + sum(done.disk.values())
        lasting = sum(done.memory.values())
        rows = [[name, f"{size / 1e6:,.1f} MB"] for name, size in done.memory.items()]
        if done.before is not None and done.peak is not None:
            rows.append(["activations and the rest", f"{max(0, done.peak - done.before - lasting) / 1e6:,.1f} MB"])
            rows.append(["in use before the model", f"{done.before / 1e6:,.1f} MB"])
            rows.append([f"peak ({done.meter})", f"{done.peak / 1e6:,.1f} MB"])
        rows += [[f"disk: {name}", f"{size / 1e6:,.1f} MB"] for name, size in done.disk.items()]
        rows.append(["seconds of the two steps", ", ".join(f"{value:.2f}" for value in done.seconds)])
        rows.append([f"all {done.steps:,} steps of {done.clips} clips", _duration(done.hours)])
        table(f"Dry run of {each.name}", ["", ""], rows)
        if done.noise:
            say("its data are not there: clips of 10 s of noise stood in for them")
        if not done.finite:
            say("with random weights the loss was not finite, so the optimizer did nothing; the peak lacks its part")
    if len(chosen) > 1:
        rows = [["time", _duration(hours)], ["disk", f"{disk / 1e6:,.1f} MB"]]
        table("All stages", ["", ""], rows)


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def _report(title: str, done: "Trained") -> None:
    rows = [["checkpoint", str(done.folder)], ["steps", str(done.steps)]]
    rates = [name for name in ("clips_per_second", "audio_seconds_per_second", "data_wait") if name in done.summary]
    rows += [[name, f"{done.summary[name]:g}"] for name in rates]
    table(title, ["", ""], [*rows, *([name, f"{value:.4f}"] for name, value in done.metrics.items())])
