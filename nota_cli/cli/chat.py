"""`nota chat`: questions about one recording."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.options import (
    AllowMissingOption,
    CheckpointOption,
    DeviceOption,
    LoadFormatOption,
    RecipeOption,
    SetOption,
    pick_recipe,
)
from nota_cli.console import err, fail, say, warn
from nota_cli.errors import NotaError, UsageError

if TYPE_CHECKING:
    from nota_cli.api import Recording

HELP = "/asr: what is said; /caption: what is heard; /quit: the end; anything else is a question about the recording"

WORDS = {"asr": "asr", "transcribe": "asr", "transcript": "asr", "aac": "aac", "caption": "aac"}
"""Words that select a task's own prompt, with a slash or without: as questions they would mean nothing."""

app = typer.Typer()


@app.command(
    epilog="Example: `nota chat rain.flac --prompt caption`, or "
    "`nota chat dog.wav --recipe small --prompt 'Is there a dog?'`"
)
def chat(
    audio: Annotated[Path, typer.Argument(help="The recording.")],
    recipe: RecipeOption = None,
    checkpoint: CheckpointOption = None,
    prompt: Annotated[
        str | None, typer.Option(help="Ask this and exit: asr for a transcript, caption for a caption, or a question.")
    ] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
) -> None:
    """Ask about one recording: `/asr`, `/caption`, or any question; `/quit` ends.

    Every line of input is answered on its own, on stdout; the recording is encoded once. Without a terminal the
    questions are the lines of stdin. The shipped model was trained on no questions, so of it ask `/asr` and `/caption`;
    `small` and the teams' systems were.
    """
    from nota_cli.data.audio.clip import duration

    if prompt is not None and not prompt.strip():
        raise UsageError("--prompt is empty: write asr, caption or a question")
    _check_command((prompt or "").strip())
    chosen = pick_recipe(recipe, checkpoint, settings)
    seconds, limit = duration(audio), chosen.audio.max_seconds  # a bad file is told before the model is loaded
    if seconds > limit:
        warn(f"{audio} has {seconds:.1f} s, of which the model hears the first {limit:g}")
    from nota_cli.imports import heavy_imports

    with heavy_imports():
        from nota_cli.api import AudioLM
        from nota_cli.models.device import device_for
        from nota_cli.models.loading import Loading, load

    model = AudioLM(load(chosen, device_for(chosen, device), Loading(load_format, allow_missing)))
    recording = model.load_recording(audio)
    if prompt is not None:
        typer.echo(_answer(recording, prompt.strip()))
    elif sys.stdin is not None and sys.stdin.isatty():
        say(HELP)
        _converse(recording, _typed(), patient=True)
    else:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")
        if not _converse(recording, sys.stdin or (), patient=False):  # None: the descriptor was closed (`<&-`)
            warn("nothing was asked: write questions to stdin, a line each, or ask one by --prompt")


def _converse(recording: "Recording", lines: Iterable[str], *, patient: bool) -> bool:
    """Answer line by line; one that cannot be answered ends it, unless someone sits there who can ask otherwise.

    Returns:
        Whether anything was said.
    """
    asked = False
    for line in map(str.strip, lines):
        asked = asked or bool(line)
        if line in ("/quit", "/exit"):
            break
        try:
            if line in ("/help", "/?"):
                say(HELP)
            elif line:
                typer.echo(_answer(recording, line))
        except NotaError as error:
            if not patient:
                raise
            fail(str(error))
    return asked


def _answer(recording: "Recording", line: str) -> str:
    tasks: dict[str, Callable[[], str]] = {"asr": recording.transcribe, "aac": recording.caption}
    task = WORDS.get(line.lower().removeprefix("/"))
    if task is not None:
        return tasks[task]()
    _check_command(line)
    return recording.ask(line)


def _check_command(line: str) -> None:
    """A word behind a slash is one of the commands."""
    if line.startswith("/") and line.lower().removeprefix("/") not in WORDS:
        raise UsageError(f"no command {line}. {HELP}")


def _typed() -> Iterator[str]:
    while True:
        try:
            yield err.input("> ")
        except (EOFError, KeyboardInterrupt):
            err.print()
            return
