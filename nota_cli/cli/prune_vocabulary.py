"""`nota prune-vocabulary`: a decoder with the tokens that given texts need."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nota_cli.console import say, table
from nota_cli.errors import UsageError

app = typer.Typer()


@app.command(
    epilog="Examples: `nota prune-vocabulary checkpoints/mine --annotation train.json --out smaller`, "
    "and with `--size 32000` no more than so many tokens"
)
def prune_vocabulary(
    source: Annotated[str, typer.Argument(help="A checkpoint folder, or a recipe whose decoder is a local folder.")],
    out: Annotated[Path, typer.Option(help="Checkpoint or decoder folder to write.")],
    annotation: Annotated[
        list[Path] | None,
        typer.Option(help="Annotation JSON whose texts and questions name the tokens to keep. Repeatable."),
    ] = None,
    texts: Annotated[
        list[Path] | None, typer.Option(help="Text file whose words name the tokens to keep. Repeatable.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A token to keep whether or not a text needs it. Repeatable.")
    ] = None,
    multiple: Annotated[int, typer.Option(min=1, help="Round the vocabulary size up to a multiple of N.")] = 1,
    size: Annotated[
        int | None, typer.Option(min=1, help="Keep at most N tokens: those that the texts use most.")
    ] = None,
) -> None:
    """Keep the tokens that given texts need, and shrink embedding, output head and tokenizer to them.

    The recipe's prompts count always. Any other text can still be read and written, in more tokens (with a word-level
    tokenizer other words are unknown). What `--size` costs is in the table: how much longer the texts become.
    """
    say(f"loading {source} ...")
    report = run_prune_vocabulary(source, out, annotation or [], texts or [], keep or [], multiple, size)
    table(f"Vocabulary in {out}", ["", "before", "after"], report)


def run_prune_vocabulary(
    source: str,
    out: Path,
    annotations: Sequence[Path],
    files: Sequence[Path],
    keep: Sequence[str],
    multiple: int,
    size: int | None = None,
) -> list[list[str]]:
    """A checkpoint folder or a recipe's decoder to one with fewer tokens; returns the table of what became smaller."""
    from nota_cli.cli.guards import check_new_folder
    from nota_cli.compression.vocabulary import prune_checkpoint, prune_recipe
    from nota_cli.data.annotation import read_annotation
    from nota_cli.models.checkpoint import WEIGHTS
    from nota_cli.outputs import Input
    from nota_cli.recipe.inputs import recipe_inputs
    from nota_cli.recipe.load import load_recipe

    recipe = load_recipe(source)
    data = recipe.data
    if not (annotations or files):
        annotations = [Path(part.annotation) for part in (*data.train, *data.validation, *data.test.values())]
    if not (annotations or files):
        raise UsageError(f"{source} names no data: say which texts count by --annotation or --texts")
    read = [Input("a text file", path) for path in files] + [Input("an annotation", path) for path in annotations]
    check_new_folder(out, source, [*recipe_inputs(recipe), *read])
    rows = [row for annotation in annotations for row in read_annotation(annotation)]
    texts = [text for row in rows for text in (row.text, *row.texts) if text]
    for file in files:
        try:
            texts += file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--texts {file}: not a text file in UTF-8 ({error})") from error
    questions = [row.asked for row in rows if row.asked]
    folder = Path(source)
    is_checkpoint = (folder / WEIGHTS).is_file() and (folder / "recipe.yaml").is_file()
    options: Any = {"questions": questions, "keep": keep, "multiple": multiple, "size": size}
    if is_checkpoint:
        report = prune_checkpoint(folder, out, texts, **options)
    else:
        report = prune_recipe(recipe, out, texts, **options)
    megabytes = [f"{size / 1e6:,.1f}" for size in (report.bytes_before, report.bytes_after)]
    length = report.length
    growth, kept = length.after / max(length.before, 1) - 1, length.kept / max(length.before, 1)
    return [
        ["tokens", f"{report.before:,}", f"{report.after:,}"],
        ["MB of the decoder", *megabytes],
        ["the texts in tokens", f"{length.before:,}", f"{length.after:,} ({growth:+.1%})"],
        ["of these still one token each", "", f"{length.kept:,} ({kept:.1%})"],
    ]
