"""The command line: one short function a command, heavy imports inside them, the only place that exits."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli import __version__
from nota_cli.console import fail, print_json, quiet_libraries, say, table
from nota_cli.errors import NotaError, UsageError

if TYPE_CHECKING:
    from nota_cli.data.prepare import Prepared
    from nota_cli.recipe.schema import LoadFormat, Recipe

app = typer.Typer(
    help="Train, run, score and measure small audio language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipes_app = typer.Typer(help="The recipes: what there is and what each is made of.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
checkpoint_app = typer.Typer(help="Trained weights in other formats.", no_args_is_help=True)
app.add_typer(checkpoint_app, name="checkpoint")
prepare_app = typer.Typer(help="Turn corpora on disk into annotation files.", no_args_is_help=True)
app.add_typer(prepare_app, name="prepare")

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Recipe: a name, a YAML file or a checkpoint folder.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change a recipe value: generate.beams=1.")]
CheckpointOption = Annotated[Path | None, typer.Option(help="Trained weights: a checkpoint folder or a .pth file.")]
AnnotationOption = Annotated[Path | None, typer.Option(help="Annotation JSON.")]
AudioRootOption = Annotated[Path | None, typer.Option(help="Folder that the annotation's paths are relative to.")]
TaskOption = Annotated[str | None, typer.Option(help="asr, aac or qa.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
LoadFormatOption = Annotated[
    str, typer.Option(help="auto, or dummy: random weights of the true size, nothing downloaded, texts meaningless.")
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="Load what fits of a checkpoint; the rest is reported, not refused.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"nota {__version__}")
        raise typer.Exit


@app.command(epilog="Example: `nota infer --task aac --out submission.csv`")
def infer(
    task: TaskOption = None,
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    annotation: AnnotationOption = None,
    audio_root: AudioRootOption = None,
    out: Annotated[Path | None, typer.Option(help="The CSV; submissions/RECIPE-TASK.csv if not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode audio ahead of the model.")] = 1,
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
) -> None:
    """Run a model over a test set into a submission CSV.

    With no other flag than `--task` the small model that ships with nota runs over the sample recordings.
    Every row is asked what its own `task` says; `--task` names the test set and serves rows without one.
    """
    from nota_cli.commands import Loading, run_infer

    chosen = _recipe(recipe, checkpoint, settings)
    loading = Loading(_load_format(load_format), allow_missing)
    summary = run_infer(_task(task), chosen, annotation, audio_root, out, limit, device, workers, loading)
    table("Inference", ["", ""], [[name, str(value)] for name, value in summary.items()])


@app.command(epilog="Example: `nota train tiny --out checkpoints/mine`")
def train(
    recipe: Annotated[str, typer.Argument(help="Recipe: a name, a YAML file or a checkpoint folder.")],
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder; checkpoints/RECIPE if not given.")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint folder to start from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was cut off.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished run away.")] = False,
    settings: SetOption = None,
) -> None:
    """Train what the recipe trains; a run that was killed goes on with `--resume`."""
    from nota_cli.recipe.load import load_recipe
    from nota_cli.training.loop import train as run

    changes = [*(settings or []), *([] if init is None else [f"train.init={json.dumps(str(init))}"])]
    loaded = load_recipe(recipe, changes)
    done = run(loaded, out or Path("checkpoints") / loaded.name, resume=resume, restart=restart)
    rows = [["checkpoint", str(done.folder)], ["steps", str(done.steps)]]
    table("Training", ["", ""], [*rows, *([name, f"{value:.4f}"] for name, value in done.metrics.items())])


@app.command(epilog="Example: `nota quantize checkpoints/tiny-stage1 --recipe tiny-stage1 --out checkpoints/tiny-gptq`")
def quantize(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder with a full-precision decoder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write, its decoder in 4-bit GPTQ.")],
    recipe: RecipeOption = None,
    bits: Annotated[int, typer.Option(help="Bits a weight.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale.")] = 32,
    clips: Annotated[int, typer.Option(min=1, help="Calibration clips, drawn from the recipe's training data.")] = 256,
    settings: SetOption = None,
) -> None:
    """Turn a trained decoder into 4-bit GPTQ, calibrated on the audio embeddings and prompts that it really sees."""
    from nota_cli.commands import run_quantize

    rows = run_quantize(_recipe(recipe, checkpoint, settings), out, bits, group_size, clips)
    table("Relative output error of the quantised layers", ["layer", "plain rounding", "GPTQ"], rows)


@app.command(epilog="Example: `nota score submission.csv --annotation test.json --task aac`")
def score(
    csv: Annotated[Path, typer.Argument(help="The submission CSV.")],
    annotation: Annotated[Path, typer.Option(help="Annotation JSON with the references.")],
    task: Annotated[str, typer.Option(help="asr, aac or qa.")],
    as_json: JsonOption = False,
) -> None:
    """Score a CSV exactly as the organisers do."""
    from nota_cli.score.report import score_submission

    report = score_submission(csv, annotation, _task(task) or task)
    if as_json:
        print_json(report)
    else:
        table(f"Score of {csv.name}", ["", ""], [[name, str(value)] for name, value in report.items()])


@app.command("validate-submission", epilog="Example: `nota validate-submission submission.csv --annotation test.json`")
def validate_submission(
    csv: Annotated[Path | None, typer.Argument(help="The CSV; else submission.csv here, else the newest one.")] = None,
    annotation: AnnotationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a CSV against the organisers' rules and more; every problem is named with its row."""
    from nota_cli.submission import find_submission, validate

    path = csv or find_submission(Path.cwd())
    problems = validate(path, annotation)
    if as_json:
        print_json({"file": str(path), "valid": not problems, "problems": [vars(problem) for problem in problems]})
    elif problems:
        rows = [[str(p.row or ""), p.id or "", p.message] for p in problems]
        table(f"{path}: {len(problems)} problems", ["line", "id", "problem"], rows)
    else:
        say(f"{path}: valid")
    if problems:
        raise typer.Exit(1)


@app.command(epilog="Example: `nota efficiency --json`")
def efficiency(
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    audio_seconds: Annotated[float, typer.Option(min=1.0, max=30.0, help="Length of the random clip.")] = 10.0,
    tokens: Annotated[int, typer.Option(min=2, help="Decode steps measured a round.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Counted rounds, after warm-up.")] = 20,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure memory, time to first token and time per output token."""
    from nota_cli.commands import pick_device
    from nota_cli.efficiency import measure

    chosen = _recipe(recipe, checkpoint, settings)
    report = measure(chosen, pick_device(device), audio_seconds, tokens, rounds, _load_format(load_format))
    if as_json:
        print_json(report)
    else:
        table(f"Efficiency of {report['recipe']}", ["", ""], [[name, str(value)] for name, value in report.items()])


@app.command(epilog="Example: `nota download gemma2-2b-gptq`")
def download(
    recipe: Annotated[str, typer.Argument(help="Recipe: a name, a YAML file or a checkpoint folder.")],
    settings: SetOption = None,
) -> None:
    """Fetch every part of a recipe from the hub, verify it, and say where it lies."""
    from nota_cli.hub import download as fetch
    from nota_cli.recipe.load import load_recipe

    parts = fetch(load_recipe(recipe, settings))
    rows = [[part.name, part.source, f"{part.bytes / 1e6:,.1f}", str(part.folder)] for part in parts]
    table(f"Parts of {recipe}", ["part", "from", "MB", "lies in"], rows)


@recipes_app.command("list", epilog="Example: `nota recipes list`")
def recipes_list(as_json: JsonOption = False) -> None:
    """Every recipe that ships with nota, with its parts and its size."""
    from nota_cli.commands import list_recipes

    rows = list_recipes()
    if as_json:
        print_json({"recipes": rows})
    else:
        table("Recipes", list(rows[0]), [[str(value) for value in row.values()] for row in rows])


@recipes_app.command("show", epilog="Example: `nota recipes show gemma2-2b-gptq`")
def recipes_show(
    recipe: Annotated[str, typer.Argument(help="Recipe: a name, a YAML file or a checkpoint folder.")],
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The parts of a recipe: parameters, and bytes by type of number. Nothing is downloaded."""
    from nota_cli.commands import show_recipe
    from nota_cli.recipe.load import load_recipe

    loaded = load_recipe(recipe, settings)
    parts = show_recipe(loaded)
    if as_json:
        print_json({"recipe": loaded.name, "description": loaded.description, "parts": parts})
        return
    rows = []
    for part in parts:
        large = {name: size for name, size in part["by_type"].items() if size > part["bytes"] / 1000}
        kinds = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in large.items())
        rows.append([part["part"], part["from"], f"{part['parameters']:,}", f"{part['bytes'] / 1e6:,.1f}", kinds])
    say(loaded.description)
    table(loaded.name, ["part", "from", "parameters", "MB", "MB by type"], rows)


@recipes_app.command("import", epilog="Example: `nota recipes import train_config.yaml --out mine.yaml`")
def recipes_import(
    config: Annotated[Path, typer.Argument(help="A YAML config of SALMONN, the organisers or a team.")],
    out: Annotated[Path | None, typer.Option(help="The recipe file to write; printed if not given.")] = None,
) -> None:
    """Turn another system's config into a recipe; keys that are dead or unknown are reported."""
    from nota_cli.commands import run_import

    text = run_import(config, out)
    if out is None:
        typer.echo(text, nl=False)


@checkpoint_app.command("convert", epilog="Example: `nota checkpoint convert theirs.pth -r salmonn-3b --out mine`")
def checkpoint_convert(
    file: Annotated[Path, typer.Argument(help="A team's .pth.")],
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="The recipe of the system that it belongs to.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    settings: SetOption = None,
) -> None:
    """Turn a `.pth` into a checkpoint folder; of the published weights the configs alone are needed."""
    from nota_cli.commands import run_convert

    report = run_convert(file, _recipe(recipe, file, settings), out)
    say(f"{out}: {report}")


@prepare_app.command("fsdd", epilog="Example: `nota prepare fsdd data/fsdd --out data`")
def prepare_fsdd(
    folder: Annotated[Path, typer.Argument(help="The Free Spoken Digit Dataset's recordings.")],
    out: Annotated[Path, typer.Option(help="Folder for fsdd-train.json and fsdd-dev.json.")] = Path("data"),
    hold_out: Annotated[str, typer.Option(help="Recording indices kept out of training: FIRST-LAST.")] = "5-9",
) -> None:
    """Spoken digits: single ones to train on, strings of held-out ones to test on."""
    from nota_cli.data.prepare import prepare_digits

    first, separator, last = hold_out.partition("-")
    if not (separator and first.isdigit() and last.isdigit()):
        raise UsageError(f"--hold-out {hold_out!r}: write it as FIRST-LAST, for example 5-9")
    _summary(prepare_digits(folder, out, hold_out=range(int(first), int(last) + 1)))


@prepare_app.command("esc10", epilog="Example: `nota prepare esc10 data/esc10 --out data`")
def prepare_esc10(
    folder: Annotated[Path, typer.Argument(help="ESC-10: one folder a class.")],
    out: Annotated[Path, typer.Option(help="Folder for esc10-train.json and esc10-dev.json.")] = Path("data"),
    hold_out_fold: Annotated[int, typer.Option(help="The fold kept out of training.")] = 4,
) -> None:
    """Environmental sounds with a caption each."""
    from nota_cli.data.prepare import prepare_esc10 as run

    _summary(run(folder, out, hold_out_fold=hold_out_fold))


@prepare_app.command("tokenizer", epilog="Example: `nota prepare tokenizer tiny-stage1 --out data/tiny-tokenizer`")
def prepare_tokenizer(
    recipe: Annotated[str, typer.Argument(help="The recipe whose prompts and training texts give the words.")],
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
) -> None:
    """Build a word-level tokenizer for a decoder that starts from random weights."""
    from nota_cli.commands import run_prepare_tokenizer

    say(f"{run_prepare_tokenizer(recipe, out)} words in {out}")


def _task(task: str | None) -> str | None:
    from nota_cli.data.annotation import FAMILIES

    if task is not None and task not in FAMILIES:
        raise UsageError(f"--task {task!r}: there are {', '.join(FAMILIES)}")
    return task


def _load_format(name: str) -> "LoadFormat":
    from nota_cli.recipe.schema import LOAD_FORMATS

    if name not in LOAD_FORMATS:
        raise UsageError(f"--load-format {name!r}: there are {' and '.join(LOAD_FORMATS)}")
    return name


def _recipe(name: str | None, checkpoint: Path | None, settings: list[str] | None) -> "Recipe":
    from nota_cli.recipe.load import DEFAULT_RECIPE, load_recipe

    if name is None and checkpoint is not None and (checkpoint / "recipe.yaml").is_file():
        name = str(checkpoint)
    if name is None:
        name = DEFAULT_RECIPE
        say("recipe tiny, the small model that ships with nota; for the full-size systems: --recipe gemma2-2b-gptq")
    loaded = load_recipe(name, settings)
    if checkpoint is None and (Path(name) / "recipe.yaml").is_file():
        checkpoint = Path(name)
    if checkpoint is None:
        return loaded
    changes: dict[str, object] = {"checkpoint": str(checkpoint)}
    own = loaded.checkpoint is not None and loaded.decoder.path == str(Path(loaded.checkpoint) / "decoder")
    if own and (checkpoint / "decoder").is_dir():
        # The recipe's decoder belongs to its own checkpoint; another checkpoint brings another one.
        changes["decoder"] = loaded.decoder.model_copy(update={"path": str(checkpoint / "decoder")})
    return loaded.model_copy(update=changes)


def _summary(written: "list[Prepared]") -> None:
    rows = [[str(file.path), f"{file.rows:,}", str(len(file.groups)), f"{file.seconds / 60:.1f}"] for file in written]
    table("Prepared", ["file", "rows", "speakers or classes", "minutes"], rows)


def main() -> None:
    """Run the app; an error that the user can mend becomes one message and its exit status."""
    quiet_libraries()
    try:
        app()
    except NotaError as error:
        fail(str(error))
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
