"""What commands share: the options that mean the same everywhere, and what becomes of their values."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nota_cli.console import say
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.recipe.schema import LoadFormat, Recipe

Choice = TypeVar("Choice", bound=str)

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", "-r", help="Recipe: a name, a YAML file or a checkpoint folder.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change a recipe value: generate.beams=1.")]
CheckpointOption = Annotated[Path | None, typer.Option(help="Trained weights: a checkpoint folder or a .pth file.")]
RecordingsArgument = Annotated[
    list[str],
    typer.Argument(
        help="Recordings: files, folders, globs ('calls/*.wav', in quotes), or - for stdin.", show_default=False
    ),
]
AnnotationOption = Annotated[Path | None, typer.Option(help="Annotation JSON.")]
AudioRootOption = Annotated[
    Path | None, typer.Option(help="Folder that the paths in --annotation are relative to; its own if not given.")
]
TaskOption = Annotated[str | None, typer.Option(help="asr, aac or qa.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
LoadFormatOption = Annotated[
    str, typer.Option(help="auto, or dummy: random weights of the true size, nothing downloaded, texts meaningless.")
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="Load what fits of a checkpoint; the rest is reported, not refused.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def pick_task(task: str | None) -> str | None:
    """The task, if there is such a one."""
    from nota_cli.data.annotation import FAMILIES

    if task is not None and task not in FAMILIES:
        raise UsageError(f"--task {task!r}: there are {', '.join(FAMILIES)}")
    return task


def check_sources(
    recordings: list[str] | None, annotation: Path | None, audio_root: Path | None, task: str | None
) -> None:
    """What `nota infer` runs over: recordings, an annotation, or the recipe's own test set.

    Raises:
        UsageError: two of them, or options that belong to another.
    """
    if recordings and annotation is not None:
        raise UsageError("give either recordings or --annotation, not both")
    if audio_root is not None and annotation is None:
        remedy = f"To run over the recordings in it: nota infer {audio_root} --task {task or 'asr'}"
        raise UsageError(f"--audio-root says where the recordings of --annotation lie, and none is given. {remedy}")
    if recordings and task in (None, "qa"):
        reason = "--task qa asks the questions of an annotation; ask one by nota chat FILE --prompt, or give"
        raise UsageError(
            reason + " --annotation"
            if task
            else "say what to ask of the recordings: --task asr (what is said) or --task aac (what is heard)"
        )


def pick_load_format(name: str) -> "LoadFormat":
    """How weights are loaded, if there is such a way."""
    from nota_cli.recipe.schema import LOAD_FORMATS

    if name not in LOAD_FORMATS:
        raise UsageError(f"--load-format {name!r}: there are {' and '.join(LOAD_FORMATS)}")
    return name


def pick_one(option: str, value: str, there: tuple[Choice, ...]) -> Choice:
    """An option's value, if it is one of those that there are."""
    found = next((known for known in there if known == value), None)
    if found is None:
        raise UsageError(f"{option} {value!r}: there are {', '.join(there)}")
    return found


def pick_batch_size(value: str) -> int | None:
    """A number of clips, or None for `auto`."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"--batch-size {value!r}: give auto or a number from 1 on")
    return int(value)


def pick_recipe(name: str | None, checkpoint: Path | None, settings: list[str] | None) -> "Recipe":
    """The recipe that is named, or that a checkpoint folder brings, or the default one; with the checkpoint in it."""
    from nota_cli.recipe.load import DEFAULT_RECIPE, load_system

    if name is None and checkpoint is not None and (checkpoint / "recipe.yaml").is_file():
        name = str(checkpoint)
    note = ""
    if name is None:
        name = DEFAULT_RECIPE
        note = ", the small model that ships with nota (for the full-size systems: --recipe gemma2-2b-gptq)"
    loaded = load_system(name, checkpoint, settings)
    say(f"loading recipe {loaded.name}{note} ...")
    return loaded
