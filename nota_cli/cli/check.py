"""`nota check`: whether a model's texts depend on what they are batched with, and whether it listens."""

from pathlib import Path
from typing import Annotated

import typer

from nota_cli.cli.options import (
    DeviceOption,
    GivenTaskOption,
    JsonOption,
    RecipeArgument,
    SetOption,
    pick_recipe,
    pick_task,
)
from nota_cli.console import print_json, progress, say, table
from nota_cli.errors import UsageError

app = typer.Typer(
    help="Check a model: `batch` for padding that leaks, `listening` for figures that need no audio.",
    no_args_is_help=True,
)
AnnotationOption = Annotated[
    Path | None, typer.Option(help="Annotation file with references (default: the recipe's own test set).")
]
RootOption = Annotated[Path | None, typer.Option(help="Audio root of --annotation (default: its folder).")]


@app.command("batch", epilog="Example: `nota check batch whisper-tiny.en --annotation test.json`")
def check_batch(
    recipe: RecipeArgument,
    annotation: AnnotationOption = None,
    audio_root: RootOption = None,
    task: GivenTaskOption = "asr",
    clips: Annotated[int, typer.Option(min=2, help="Number of clips in the batch, chosen to differ in length.")] = 4,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare each clip's text alone with its text in a batch of other lengths. Exit status 1 if any differs."""
    from nota_cli.data.audio.headers import scan
    from nota_cli.imports import heavy_imports
    from nota_cli.inference.batch_gate import differences, unlike
    from nota_cli.inference.selection import select_annotation
    from nota_cli.models.device import device_for
    from nota_cli.models.loading import load

    chosen = pick_recipe(recipe, None, settings)
    selected = select_annotation(chosen, pick_task(task) or task, annotation, audio_root, None, True)
    seconds = [known or 0.0 for known in scan(selected.rows, selected.audio_root).durations]
    with heavy_imports():
        model = load(chosen, device_for(chosen, device))
    positions = unlike(range(len(selected.rows)), seconds, clips)
    differing = differences(model, selected.rows, selected.audio_root, positions)
    if as_json:
        paths = [selected.rows[each.position].path for each in differing]
        entries = [
            {"clip": path, "alone": each.alone, "together": each.together}
            for path, each in zip(paths, differing, strict=True)
        ]
        print_json({"recipe": chosen.name, "clips": len(positions), "differing": entries})
    elif differing:
        rows = [[selected.rows[each.position].path, each.alone, each.together] for each in differing]
        table("Texts that depend on the batch", ["clip", "alone", "in the batch"], rows)
    say(f"{len(positions) - len(differing)} of {len(positions)} clips have the same text alone and in a batch")
    if differing:
        raise typer.Exit(1)


@app.command("listening", epilog="Example: `nota check listening tiny --task aac`")
def check_listening(
    recipe: RecipeArgument,
    task: GivenTaskOption,
    annotation: AnnotationOption = None,
    audio_root: RootOption = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use only the first N rows.")] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a test set as it is, with silence, with other rows' clips, and with the first second of each clip."""
    from tempfile import TemporaryDirectory

    from nota_cli.checks.listening import VARIANTS, listening, metric_of, verdict
    from nota_cli.data.annotation import row_id
    from nota_cli.data.corpora.base import write_annotation
    from nota_cli.data.tools.items import annotation_items
    from nota_cli.imports import heavy_imports
    from nota_cli.inference.selection import select_annotation
    from nota_cli.models.device import device_for
    from nota_cli.models.loading import load

    family = pick_task(task) or task
    chosen = pick_recipe(recipe, None, settings)
    selected = select_annotation(chosen, family, annotation, audio_root, limit, True)
    if selected.annotation is None:
        raise UsageError("listening is checked on an annotation with references; name one by --annotation")
    items = annotation_items(selected.annotation)
    with heavy_imports():
        model = load(chosen, device_for(chosen, device))
    with TemporaryDirectory(prefix="nota-check-") as folder, progress() as bar:
        bar_task = bar.add_task("listening", total=len(selected.rows) * len(VARIANTS), detail=chosen.name)
        file = Path(folder) / "rows.json"
        named = [{**items[row.index], "testset_id": row_id(row)} for row in selected.rows]
        write_annotation(file, named)
        results = listening(
            model,
            selected.rows,
            selected.audio_root,
            file,
            family,
            on_rows=lambda count: bar.advance(bar_task, count),
        )
    sentence, metric = verdict(results, family), metric_of(family, selected.rows)
    if as_json:
        figures = [{"audio": each.name, metric: each.score, "same_texts": each.same_texts} for each in results]
        print_json({"recipe": chosen.name, "rows": len(selected.rows), "figures": figures, "verdict": sentence})
        return
    rows = [[each.name, VARIANTS[each.name], f"{each.score:.1f}", f"{100 * each.same_texts:.0f}%"] for each in results]
    table(f"{chosen.name}, {len(selected.rows)} rows", ["audio", "what is played", metric, "same texts"], rows)
    say(sentence)
