"""`nota prepare`: corpora on disk to annotation files, and a tokenizer for tiny models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.completion import complete_recipe
from nota_cli.console import say, table
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.data.corpora.base import Prepared

app = typer.Typer(help="Turn corpora on disk into annotation files.", no_args_is_help=True)


@app.command("fsdd", epilog="Example: `nota prepare fsdd data/fsdd --out data`")
def prepare_fsdd(
    folder: Annotated[Path, typer.Argument(help="Folder with the Free Spoken Digit Dataset's recordings.")],
    out: Annotated[Path, typer.Option(help="Folder for fsdd-train.json and fsdd-dev.json.")] = Path("data"),
    hold_out: Annotated[str, typer.Option(help="Recording indices kept out of training: FIRST-LAST.")] = "5-9",
) -> None:
    """Spoken digits: single ones to train on, strings of held-out ones to test on."""
    from nota_cli.cli.guards import check_prepare
    from nota_cli.data.corpora.fsdd import prepare_digits

    first, separator, last = hold_out.partition("-")
    if not (separator and first.isdigit() and last.isdigit()):
        raise UsageError(f"--hold-out {hold_out!r}: write it as FIRST-LAST, for example 5-9")
    check_prepare(out, ("fsdd-train.json", "fsdd-dev.json"), folder)
    _summary(prepare_digits(folder, out, hold_out=range(int(first), int(last) + 1)))


@app.command("esc10", epilog="Example: `nota prepare esc10 data/esc10 --out data`")
def prepare_esc10(
    folder: Annotated[Path, typer.Argument(help="Folder of ESC-10, with one folder per class.")],
    out: Annotated[Path, typer.Option(help="Folder for esc10-train.json and esc10-dev.json.")] = Path("data"),
    hold_out_fold: Annotated[
        int, typer.Option(help="Number of the fold that is kept out of training, from 1 to 5.")
    ] = 4,
) -> None:
    """Environmental sounds with a caption each."""
    from nota_cli.cli.guards import check_prepare
    from nota_cli.data.corpora.esc10 import prepare_esc10 as write_esc10

    check_prepare(out, ("esc10-train.json", "esc10-dev.json"), folder)
    _summary(write_esc10(folder, out, hold_out_fold=hold_out_fold))


@app.command("tokenizer", epilog="Example: `nota prepare tokenizer tiny-stage1 --out data/tiny-tokenizer`")
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
    say(f"{_write_tokenizer(recipe, out)} words in {out}")


def _summary(written: "list[Prepared]") -> None:
    rows = [[str(file.path), f"{file.rows:,}", str(len(file.groups)), f"{file.seconds / 60:.1f}"] for file in written]
    table("Prepared", ["file", "rows", "speakers or classes", "minutes"], rows)


def _write_tokenizer(recipe_name: str, out: Path) -> int:
    """A tokenizer folder over every word that the recipe's prompts and training texts use; returns their number."""
    from nota_cli.cli.guards import check_tokenizer
    from nota_cli.data.annotation import read_annotation
    from nota_cli.data.tokenizer import build_word_tokenizer
    from nota_cli.prompts import Query, wrap
    from nota_cli.recipe.load import load_recipe

    recipe = load_recipe(recipe_name)
    check_tokenizer(out, recipe)
    texts = [part for task in recipe.prompts.tasks for part in wrap(recipe.prompts, Query(task, "what is it"))]
    for source in recipe.data.train:
        for row in read_annotation(Path(source.annotation)):
            texts += [row.text or "", *row.texts]
    return len(build_word_tokenizer(texts, out))
