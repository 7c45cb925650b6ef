"""The command line: one short function a command, heavy imports inside them, the only place that exits."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli import __version__
from nota_cli.cli_chat import chat_app
from nota_cli.cli_completion import complete_recipe, complete_task
from nota_cli.cli_compress import compress_app
from nota_cli.cli_leaderboard import leaderboard_app
from nota_cli.cli_listen import listen_app
from nota_cli.cli_options import (
    AllowMissingOption,
    AnnotationOption,
    AudioRootOption,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    LoadFormatOption,
    RecipeArgument,
    RecipeOption,
    SetOption,
    TaskOption,
    check_sources,
    expand_paths,
    pick_batch_size,
    pick_load_format,
    pick_one,
    pick_recipe,
    pick_task,
)
from nota_cli.cli_submission import submission_app
from nota_cli.cli_systems import checkpoint_app, recipes_app, systems_app
from nota_cli.console import print_json, quiet_process, say, show_audio_warnings, table
from nota_cli.data.recordings import named_recordings
from nota_cli.errors import UsageError
from nota_cli.process import run

if TYPE_CHECKING:
    from nota_cli.data.prepare import Prepared

app = typer.Typer(
    help="Train, run, score and measure small audio language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
prepare_app = typer.Typer(help="Turn corpora on disk into annotation files.", no_args_is_help=True)
app.add_typer(prepare_app, name="prepare")
app.add_typer(recipes_app, name="recipes")
app.add_typer(checkpoint_app, name="checkpoint")
for part in (listen_app, systems_app, chat_app, compress_app, leaderboard_app, submission_app):
    app.registered_commands += part.registered_commands


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"nota {__version__}")
        raise typer.Exit


@app.command(
    epilog="Examples: `nota infer --task aac --out submission.csv`; "
    "`nota infer my.wav 'calls/*.mp3' --task asr --out texts.csv`"
)
def infer(
    audio: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recordings, instead of an annotation: files, folders, globs ('calls/*.wav', quoted), or - for stdin."
        ),
    ] = None,
    task: TaskOption = None,
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    annotation: AnnotationOption = None,
    audio_root: AudioRootOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The CSV; submissions/RECIPE-TASK.csv if not given, RECIPE-TASK.csv here for recordings."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.")] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that decode audio ahead; if not given, what the cores can spare."),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Clips of a batch; auto: the recipe's, or on CUDA what the memory takes.")
    ] = "auto",
    on_error: Annotated[
        str, typer.Option(help="Rows with bad audio: stop, blank (the recipe's fallback text) or skip.")
    ] = "stop",
    long: Annotated[
        str, typer.Option(help="Clips over 30 s: cut, as the organisers do, or chunk: overlapping windows.")
    ] = "cut",
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what a run that was cut has finished.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a finished CSV of another run, or one that was edited.")
    ] = False,
    audio_root_moved: Annotated[
        bool,
        typer.Option("--audio-root-moved", help="Resume although the same recordings lie elsewhere now."),
    ] = False,
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
) -> None:
    """Run a model over a test set or recordings into a CSV; re-run the same command to resume.

    With no other flag than `--task` the small model that ships with nota runs over the sample recordings.
    Each row's `task` selects its prompt; `--task` names the test set and serves rows without one, and recordings, whose
    paths are the CSV's `testset_id`.
    Several processes share the rows under `torchrun` or `accelerate launch`. Beside the CSV lies a report, `.run.json`.
    """
    task = pick_task(task)
    check_sources(audio, annotation, audio_root, task)
    with named_recordings(audio or []) as recordings:
        for note in recordings.notes:
            say(note)
        chosen = pick_recipe(recipe, checkpoint, settings)

        from nota_cli.commands import Loading
        from nota_cli.commands_infer import Wishes, run_infer
        from nota_cli.inference.policy import ON_ERROR

        wishes = Wishes(
            task,
            annotation,
            recordings.files,
            audio_root,
            out,
            limit,
            device,
            workers,
            Loading(pick_load_format(load_format), allow_missing),
            batch_size=pick_batch_size(batch_size),
            on_error=pick_one("--on-error", on_error, ON_ERROR),
            chunk=pick_one("--long", long, ("cut", "chunk")) == "chunk",
            restart=restart,
            overwrite=overwrite,
            audio_root_moved=audio_root_moved,
        )
        summary = run_infer(chosen, wishes)
    if summary is not None:
        table("Inference", ["", ""], [[name, str(value)] for name, value in summary.items()])


@app.command(
    epilog="Example: `nota train tiny-samples --out checkpoints/mine`, a minute's run on the sample recordings. "
    "`nota train tiny` needs the corpora that the shipped model was trained on."
)
def train(
    recipe: RecipeArgument,
    out: Annotated[Path | None, typer.Option(help="Checkpoint folder; checkpoints/RECIPE if not given.")] = None,
    init: Annotated[Path | None, typer.Option(help="Checkpoint folder to start from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was cut off.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished run away.")] = False,
    settings: SetOption = None,
) -> None:
    """Train what the recipe trains; a run that was killed goes on with `--resume`."""
    from nota_cli.guards import check_checkpoint
    from nota_cli.recipe.load import load_recipe
    from nota_cli.recipe.sources import with_data_there

    changes = [*(settings or []), *([] if init is None else [f"train.init={json.dumps(str(init))}"])]
    loaded = with_data_there(load_recipe(recipe, changes), recipe)
    folder = out or Path("checkpoints") / loaded.name
    check_checkpoint(folder, loaded)
    say(f"loading recipe {loaded.name} ...")
    from nota_cli.training.loop import train as train_recipe

    done = train_recipe(loaded, folder, resume=resume, restart=restart)
    rows = [["checkpoint", str(done.folder)], ["steps", str(done.steps)]]
    table("Training", ["", ""], [*rows, *([name, f"{value:.4f}"] for name, value in done.metrics.items())])


@app.command(epilog="Example: `nota score submission.csv --annotation test.json --task aac --details clips.csv`")
def score(
    csv: Annotated[Path, typer.Argument(help="The submission CSV.")],
    annotation: Annotated[Path, typer.Option(help="Annotation JSON with the references.")],
    task: Annotated[str, typer.Option(help="asr, aac or qa.", autocompletion=complete_task)],
    profile: Annotated[
        str, typer.Option(help="organisers, or standard: the figures that papers publish (aac: the extra `spider`).")
    ] = "organisers",
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Samples behind the 95% confidence intervals; 0: no intervals.")
    ] = 1000,
    details: Annotated[Path | None, typer.Option(help="Write each clip's edits, texts and values to this CSV.")] = None,
    worst: Annotated[
        int | None, typer.Option(min=0, help="So many worst clips and substitutions on stderr; 5, with --json none.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score a CSV exactly as the organisers do, or as papers do."""
    from nota_cli.files import check_writable
    from nota_cli.guards import check_score
    from nota_cli.score import details as tool
    from nota_cli.score.report import score_clips

    check_score(details, csv, annotation)
    if details is not None:
        check_writable(details)
    scored = score_clips(csv, annotation, pick_task(task) or task, profile=profile, samples=bootstrap)
    if details is not None:
        tool.write_details(details, scored.clips)
    if as_json:
        print_json(scored.report)
    else:
        table(f"Score of {csv.name}", ["", ""], tool.figures(scored.report))
    tool.show(scored, (0 if as_json else 5) if worst is None else worst)


@app.command(epilog="Example: `nota efficiency --recipe salmonn-3b --load-format dummy --out salmonn-3b.json`")
def efficiency(
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    protocol: Annotated[str, typer.Option(help="synced, or organisers: the competition's own way.")] = "synced",
    audio_seconds: Annotated[float, typer.Option(min=1.0, max=30.0, help="Length of the random clip.")] = 10.0,
    tokens: Annotated[int, typer.Option(min=2, help="Decode steps measured a round.")] = 32,
    rounds: Annotated[int | None, typer.Option(min=1, help="Counted rounds; 20, or the organisers' 100.")] = None,
    warm_up: Annotated[int | None, typer.Option(min=0, help="Rounds before them; 3, or the organisers' 10.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Time for prefills, and for steps; 3 rounds always.")] = 20.0,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the measurement to this JSON file.")] = None,
    comparison: Annotated[
        list[Path] | None, typer.Option("--compare", help="Measure nothing; set such files side by side.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure memory, time to first token and time per output token, beside what the hardware allows.

    `--compare A.json --compare B.json` shows measurements that `--out` wrote side by side.
    """
    from nota_cli.console import progress
    from nota_cli.files import check_writable, write_text
    from nota_cli.guards import check_efficiency

    chosen = None if comparison else pick_recipe(recipe, checkpoint, settings)  # says that it is loading
    from nota_cli import efficiency as tool
    from nota_cli.model.device import pick_device

    if chosen is None:
        compared = tool.compare(comparison or [])
        print_json(compared) if as_json else tool.show_comparison(compared)
        return
    if protocol not in tool.PROTOCOLS:
        raise UsageError(f"--protocol {protocol!r}: there are {' and '.join(tool.PROTOCOLS)}")
    how = tool.Settings(protocol, audio_seconds, tokens, rounds, warm_up, seconds)
    place, weights = pick_device(device), pick_load_format(load_format)
    check_efficiency(out, chosen)
    if out is not None:
        check_writable(out)
    with progress() as bar:
        shown = bar.add_task("rounds", total=None, detail=chosen.name)
        report = tool.measure(
            chosen,
            place,
            load_format=weights,
            settings=how,
            on_round=lambda done, total: bar.update(shown, completed=done, total=total),
        )
    if out is not None:
        write_text(out, json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    print_json(report) if as_json else tool.show(report)


@prepare_app.command("fsdd", epilog="Example: `nota prepare fsdd data/fsdd --out data`")
def prepare_fsdd(
    folder: Annotated[Path, typer.Argument(help="The Free Spoken Digit Dataset's recordings.")],
    out: Annotated[Path, typer.Option(help="Folder for fsdd-train.json and fsdd-dev.json.")] = Path("data"),
    hold_out: Annotated[str, typer.Option(help="Recording indices kept out of training: FIRST-LAST.")] = "5-9",
) -> None:
    """Spoken digits: single ones to train on, strings of held-out ones to test on."""
    from nota_cli.data.prepare import prepare_digits
    from nota_cli.guards import check_prepare

    first, separator, last = hold_out.partition("-")
    if not (separator and first.isdigit() and last.isdigit()):
        raise UsageError(f"--hold-out {hold_out!r}: write it as FIRST-LAST, for example 5-9")
    check_prepare(out, ("fsdd-train.json", "fsdd-dev.json"), folder)
    _summary(prepare_digits(folder, out, hold_out=range(int(first), int(last) + 1)))


@prepare_app.command("esc10", epilog="Example: `nota prepare esc10 data/esc10 --out data`")
def prepare_esc10(
    folder: Annotated[Path, typer.Argument(help="ESC-10: one folder a class.")],
    out: Annotated[Path, typer.Option(help="Folder for esc10-train.json and esc10-dev.json.")] = Path("data"),
    hold_out_fold: Annotated[int, typer.Option(help="The fold kept out of training.")] = 4,
) -> None:
    """Environmental sounds with a caption each."""
    from nota_cli.data.prepare import prepare_esc10 as write_esc10
    from nota_cli.guards import check_prepare

    check_prepare(out, ("esc10-train.json", "esc10-dev.json"), folder)
    _summary(write_esc10(folder, out, hold_out_fold=hold_out_fold))


@prepare_app.command("tokenizer", epilog="Example: `nota prepare tokenizer tiny-stage1 --out data/tiny-tokenizer`")
def prepare_tokenizer(
    recipe: Annotated[
        str,
        typer.Argument(
            help="The recipe whose prompts and training texts give the words.", autocompletion=complete_recipe
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tokenizer.")],
) -> None:
    """Build a word-level tokenizer for a decoder that starts from random weights."""
    from nota_cli.commands import run_prepare_tokenizer

    say(f"{run_prepare_tokenizer(recipe, out)} words in {out}")


def _summary(written: "list[Prepared]") -> None:
    rows = [[str(file.path), f"{file.rows:,}", str(len(file.groups)), f"{file.seconds / 60:.1f}"] for file in written]
    table("Prepared", ["file", "rows", "speakers or classes", "minutes"], rows)


expand_paths(app)


def main() -> None:
    """Run the app; an error that the user can mend becomes one message and its exit status."""
    show_audio_warnings()
    with quiet_process():
        run(app)


if __name__ == "__main__":
    main()
