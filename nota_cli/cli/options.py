"""What commands share: the options that mean the same everywhere, and what becomes of their values."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nota_cli.cli.completion import complete_checkpoint, complete_recipe, complete_task
from nota_cli.console import say
from nota_cli.errors import UsageError
from nota_cli.paths import expand_path

if TYPE_CHECKING:
    from nota_cli.recipe.schema import BaseRecipe

RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "-r",
        help="Recipe to run: a name from `nota recipes list`, a YAML file or a checkpoint folder (default: tiny).",
        autocompletion=complete_recipe,
    ),
]
RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="Recipe: a name from `nota recipes list`, a YAML file or a checkpoint folder.",
        autocompletion=complete_recipe,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe: generate.beams=1. Repeatable."),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="Trained weights to load: a checkpoint folder or a .pth file.", autocompletion=complete_checkpoint
    ),
]
RecordingsArgument = Annotated[
    list[str],
    typer.Argument(
        help="Recordings: files, folders, globs ('calls/*.wav', in quotes), or - for stdin.", show_default=False
    ),
]
AnnotationOption = Annotated[
    Path | None, typer.Option(help="Annotation JSON: a list of recordings with their tasks and reference texts.")
]
AudioRootOption = Annotated[
    Path | None,
    typer.Option(help="Folder that the paths in --annotation are relative to (default: the annotation's folder)."),
]
_TASK = typer.Option(
    metavar="<asr|aac|qa>",  # not a Literal: capitals are taken too, and near words get a hint
    help="asr: what is said, word for word. aac: a caption of what is heard. qa: answers to questions.",
    autocompletion=complete_task,
)
TaskOption = Annotated[str | None, _TASK]
GivenTaskOption = Annotated[str, _TASK]
"""Of commands that need a task, or have a default one."""
DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="<auto|cpu|cuda|cuda:N>", help="Where the model runs; auto takes the GPU if there is one, else the CPU."
    ),
]
LoadFormatOption = Annotated[
    Literal["auto", "dummy"],
    typer.Option(help="dummy: random weights of the true size. Nothing is downloaded, and the texts are meaningless."),
]
AllowMissingOption = Annotated[
    bool,
    typer.Option(
        "--allow-missing", help="Load the weights that fit; report missing and unexpected ones instead of stopping."
    ),
]
RuntimeOption = Annotated[
    Literal["auto", "torch", "onnx"],
    typer.Option(
        help="Library that runs the model. auto: onnx for a folder that `nota export` wrote, with llama.cpp for a "
        "decoder in GGUF; else torch."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]


def expand_paths(app: typer.Typer) -> None:
    """Let every command of an app, and of the apps in it, get its paths with `~`, `~user` and `file://` written out.

    A shell does so only at the beginning of a word, so that `--out=~/x.csv` arrives as it was typed.
    """
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _expanding(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            expand_paths(group.typer_instance)


def _expanding(callback: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(callback)  # typer reads the options off its signature
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return callback(*args, **{name: _expanded(value) for name, value in kwargs.items()})

    return wrapper


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_expanded(each) for each in value)
    if not isinstance(value, Path):
        return value
    try:
        return Path(expand_path(str(value)))
    except ValueError as error:
        raise UsageError(str(error)) from None


def pick_task(task: str | None) -> str | None:
    """The task, in capitals or not, if there is such a one."""
    from nota_cli.data.tasks import FAMILIES, near_tasks

    if task is None or task in FAMILIES:
        return task
    near = near_tasks(task, FAMILIES, {name: name for name in FAMILIES})
    if near and near[0] == task.lower():
        return near[0]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"--task {task!r}: {hint}there are {', '.join(FAMILIES)}")


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


def pick_batch_size(value: str) -> int | None:
    """A number of clips, or None for `auto`."""
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"--batch-size {value!r}: give auto or a number from 1 on")
    return int(value)


def pick_recipe(name: str | None, checkpoint: Path | None, settings: list[str] | None) -> "BaseRecipe":
    """The recipe that is named, or that a checkpoint folder brings, or the default one; with the checkpoint in it."""
    from nota_cli.recipe.load import DEFAULT_RECIPE, load_system

    if name is None and checkpoint is not None and (checkpoint / "recipe.yaml").is_file():
        name = str(checkpoint)
    note = ""
    if name is None:
        name = DEFAULT_RECIPE
        note = (
            ", the small model that ships with nota; it knows spoken digits and ten sounds (for real "
            "speech: --recipe small; for the full-size systems: --recipe gemma2-2b-gptq)"
        )
    loaded = load_system(name, checkpoint, settings)
    say(f"loading recipe {loaded.name}{note} ...")
    return loaded


def check_runtime(recipe: "BaseRecipe", runtime: str) -> None:
    """Hold `--runtime` against the recipe that is to run.

    Raises:
        UsageError: the recipe runs on the other one.
    """
    own = "onnx" if recipe.family == "onnx" else "torch"
    if runtime in ("auto", own):
        return
    if runtime == "onnx":
        raise UsageError(
            f"--runtime onnx: {recipe.name} is no export. Write one by `nota export {recipe.name} --out DIR`, and name "
            "it by --recipe DIR"
        )
    raise UsageError(f"--runtime torch: {recipe.name} is an export, which runs without torch; name its source instead")
