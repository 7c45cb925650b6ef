"""`nota infer`: a model over a test set or recordings into a CSV."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from nota_cli.cli.options import (
    AllowMissingOption,
    AnnotationOption,
    AudioRootOption,
    CheckpointOption,
    DeviceOption,
    LoadFormatOption,
    RecipeOption,
    RuntimeOption,
    SetOption,
    TaskOption,
    check_runtime,
    check_sources,
    pick_batch_size,
    pick_recipe,
    pick_task,
)
from nota_cli.console import say, table

app = typer.Typer()


@app.command(
    epilog="Examples: `nota infer --task aac --out submission.csv`; "
    "`nota infer my.wav 'calls/*.mp3' --task asr --out texts.csv`"
)
def infer(
    audio: Annotated[
        list[str] | None,
        typer.Argument(help="Your own recordings: files, folders, globs ('calls/*.wav', in quotes), or - for stdin."),
    ] = None,
    task: TaskOption = None,
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    annotation: AnnotationOption = None,
    audio_root: AudioRootOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="CSV to write (default: submissions/RECIPE-TASK.csv; for recordings RECIPE-TASK.csv here)."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Run only the first N rows.")] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Number of processes that decode audio (default: as many as the cores allow)."),
    ] = None,
    batch_size: Annotated[
        str,
        typer.Option(
            metavar="<auto|N>",
            help="Number of clips per batch. auto: the recipe's number; on CUDA, as many as the memory holds.",
        ),
    ] = "auto",
    on_error: Annotated[
        Literal["stop", "blank", "skip"],
        typer.Option(help="If audio cannot be used: stop, write the recipe's fallback text, or leave the row out."),
    ] = "stop",
    long: Annotated[
        Literal["cut", "chunk"],
        typer.Option(help="For clips over 30 s. cut: use the first 30 s only. chunk: use all, in overlapping windows."),
    ] = "cut",
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the rows that an earlier run has finished, and start again.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Compute a finished CSV anew; replace one of another run, or one that was edited.",
        ),
    ] = False,
    audio_root_moved: Annotated[
        bool,
        typer.Option("--audio-root-moved", help="Resume even though the same recordings now lie in another folder."),
    ] = False,
    runtime: RuntimeOption = "auto",
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
) -> None:
    """Run a model over a test set or recordings into a CSV; re-run the same command to resume.

    With no other flag than `--task` the small model that ships with nota runs over the sample recordings.
    Each row's `task` selects its prompt; `--task` names the test set and serves rows without one, and recordings, whose
    paths are the CSV's `testset_id`.
    Several processes share the rows under `torchrun` or `accelerate launch`. Beside the CSV lies a report, `.run.json`:
    the rows that failed and why, times, and what the run was made of.
    """
    from nota_cli.data.recordings import named_recordings

    task = pick_task(task)
    check_sources(audio, annotation, audio_root, task)
    with named_recordings(audio or []) as recordings:
        for note in recordings.notes:
            say(note)
        chosen = pick_recipe(recipe, checkpoint, settings)
        check_runtime(chosen, runtime)

        from nota_cli.inference.options import InferOptions
        from nota_cli.inference.run import run_infer
        from nota_cli.models.loading import Loading

        options = InferOptions(
            task,
            annotation,
            recordings.files,
            audio_root,
            out,
            limit,
            device,
            workers,
            Loading(load_format, allow_missing),
            batch_size=pick_batch_size(batch_size),
            on_error=on_error,
            chunk=long == "chunk",
            restart=restart,
            overwrite=overwrite,
            audio_root_moved=audio_root_moved,
        )
        summary = run_infer(chosen, options)
    if summary is not None:
        table("Inference", ["", ""], [[name, str(value)] for name, value in summary.items()])
