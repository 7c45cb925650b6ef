"""What each command reads and writes, for the check that it writes over nothing that it reads."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nota_cli.errors import UsageError
from nota_cli.outputs import Input, Output, check_outputs
from nota_cli.recipe.inputs import recipe_inputs

if TYPE_CHECKING:
    from nota_cli.ladder.sets import EvaluationSet
    from nota_cli.recipe.schema import BaseRecipe

PARTS_OF_A_CHECKPOINT = ("recipe.yaml", "model.safetensors", "metrics.json", "adapter", "decoder", "trainer", "best")
REPLACED = ("adapter", "decoder")


def check_score(details: Path | None, csv: Path, annotation: Path) -> None:
    """`nota score`: the table of clips against what it is made of; an earlier table is replaced."""
    if details is not None:
        inputs = [Input("the submission", csv), Input("the annotation", annotation)]
        check_outputs([Output("--details", details)], inputs)
        _refuse_foreign("--details", details, "a table of clips", ",hypothesis,reference")


def check_efficiency(out: Path | None, recipe: "BaseRecipe") -> None:
    """`nota efficiency`: the measurement against recipe and weights; an earlier measurement is replaced."""
    if out is not None:
        check_outputs([Output("--out", out)], recipe_inputs(recipe))
        _refuse_foreign("--out", out, "a measurement", '"recipe_hash"')


def check_fix(fix: Path, annotations: Sequence[Path]) -> None:
    """`nota validate-submission --fix`: the copy against the annotations.

    That the copy is the CSV itself is refused where it is made, which knows of `--in-place`.
    """
    check_outputs([Output("--fix", fix)], [Input("the annotation", path) for path in annotations])


def check_compare(out: Path, runs: Iterable[Path]) -> None:
    """`nota compare`: its three files against the reports."""
    outputs = [Output("--out", out / name) for name in ("compare.md", "compare.csv", "compare.png")]
    check_outputs(outputs, [Input("a report that is compared", path) for path in runs])


def check_ladder(out: Path, recipe: "BaseRecipe", sets: "Sequence[EvaluationSet]") -> None:
    """`nota ladder`: its tables and sets against recipe, weights and annotations.

    What a rung writes is checked by the commands that write it.
    """
    names = ("ladder.md", "ladder.csv", "ladder.png", "state.json")
    outputs = [Output("--out", path) for path in (out, *(out / name for name in names))]
    outputs += [Output("--out", each.file(out)) for each in sets]
    annotations = [Input("the annotation", path) for path in dict.fromkeys(each.source for each in sets)]
    check_outputs(outputs, [*recipe_inputs(recipe), *annotations])


def check_import(out: Path | None, config: Path) -> None:
    """`nota recipes import`: the recipe against the config."""
    if out is not None:
        check_outputs([Output("--out", out)], [Input("the config", config)])


def check_checkpoint(out: Path, recipe: "BaseRecipe | None" = None, others: Iterable[Input] = ()) -> None:
    """Commands that write a checkpoint folder part by part: the folder and its parts against recipe and weights.

    Args:
        out: the folder; other files that are in it stay as they are.
        recipe: what the command reads the files of.
        others: further inputs.
    """
    parts = [Output("--out", out / name, replaced=name in REPLACED) for name in PARTS_OF_A_CHECKPOINT]
    own = () if recipe is None else recipe_inputs(recipe)
    check_outputs([*parts, Output("--out", out)], [*own, *others])


def check_new_folder(out: Path, checkpoint: Path | str, others: Iterable[Input] = ()) -> None:
    """Commands that make one checkpoint or decoder folder of another, as a whole."""
    source = Input("the checkpoint", Path(checkpoint), whole=True)
    check_outputs([Output("--out", out, replaced=True)], [source, *others])


def check_prepare(out: Path, names: Sequence[str], corpus: Path) -> None:
    """`nota prepare fsdd`, `nota prepare esc10`: the annotations against the corpus."""
    outputs = [Output("--out", out / name) for name in names]
    check_outputs(outputs, _files(corpus) if any(output.path.exists() for output in outputs) else ())


def check_tokenizer(out: Path, recipe: "BaseRecipe") -> None:
    """`nota prepare tokenizer`: its files against the recipe and its annotations; weights are not read."""
    outputs = [Output("--out", out / name) for name in ("tokenizer.json", "tokenizer_config.json")]
    check_outputs(outputs, [known for known in recipe_inputs(recipe) if not known.whole])


def _refuse_foreign(option: str, path: Path, kind: str, mark: str) -> None:
    """Let a report take the place of one of its own kind, which has `mark` near its beginning, and of nothing else.

    Raises:
        UsageError: something else is there.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        head = file.read(4096)
    if mark.encode() not in head:
        raise UsageError(f"{option}: {path} is there and is not {kind}. Choose another output path, or remove it.")


def _files(folder: Path) -> Iterator[Input]:
    for path in folder.rglob("*"):
        if path.suffix != ".json" and path.is_file():  # an annotation there is an earlier one of these
            yield Input(f"the recording {path.name}", path)
