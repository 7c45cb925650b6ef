"""The command line: the app put together of its commands, each in a file of its own, and the way in."""

import logging
from typing import Annotated

import typer

from nota_cli.cli import (
    chat,
    check,
    checkpoint,
    compare,
    data,
    demo,
    download,
    efficiency,
    export,
    infer,
    ladder,
    merge_lora,
    prepare,
    prune_layers,
    prune_vocabulary,
    quantize,
    recipes,
    score,
    submit,
    train,
    transcribe,
    validate_submission,
)
from nota_cli.cli.options import expand_paths
from nota_cli.cli.process import run
from nota_cli.console import quiet_process, set_verbosity, show_audio_warnings
from nota_cli.cores import let_idle_threads_sleep
from nota_cli.errors import UsageError
from nota_cli.imports import leave_out_torchao
from nota_cli.version import __version__

app = typer.Typer(
    help="Train, run, score and measure small audio language models.",
    epilog="Begin with `nota transcribe my.wav` or `nota recipes list`; each command has `--help` with an example. "
    "Exit status: 0 done; 1 it ran, and the answer is bad (an invalid submission, unreadable audio); 2 wrong use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (
    *(transcribe, infer, score, efficiency, train, chat, demo, download),
    *(quantize, prune_vocabulary, prune_layers, merge_lora, export, ladder, compare, submit, validate_submission),
)
"""In the order of `nota --help`."""
for _command in COMMANDS:
    app.registered_commands += _command.app.registered_commands
app.add_typer(data.app, name="data")
app.add_typer(check.app, name="check")
app.add_typer(prepare.app, name="prepare")
app.add_typer(recipes.app, name="recipes")
app.add_typer(checkpoint.app, name="checkpoint")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show details that help to find a fault, and libraries' warnings.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show warnings and errors only: no progress, no notes.")
    ] = False,
) -> None:
    if verbose and quiet:
        raise UsageError("--verbose and --quiet contradict each other; leave one out")
    set_verbosity(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    if version:
        typer.echo(f"nota {__version__}")
        raise typer.Exit


expand_paths(app)


def main() -> None:
    """Run the app; an error that the user can mend becomes one message and its exit status."""
    leave_out_torchao()
    let_idle_threads_sleep()
    show_audio_warnings()
    logger = logging.getLogger("nota_cli")
    before, logger.propagate = logger.propagate, False  # a handler that a library gives to the root prints it again
    try:
        with quiet_process():
            run(app)
    finally:
        logger.propagate = before


if __name__ == "__main__":
    main()
