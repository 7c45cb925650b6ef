"""`nota export` step by step: build, write, compare, and only then take the folder's place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nota_cli.assets import home
from nota_cli.console import say, waiting
from nota_cli.data.annotation import Row, clip_paths, read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.data.row_batches import query_of
from nota_cli.errors import DataError, NotaError
from nota_cli.export.card import CARD, model_card
from nota_cli.export.onnx import Bits, source_model, write_export, write_manifest
from nota_cli.export.parity import Parity, compare
from nota_cli.files import atomic_folder
from nota_cli.models.families.exported import ExportedSalmonn
from nota_cli.recipe.exported import ExportRecipe, Manifest
from nota_cli.recipe.load import load_any_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.section import LoadFormat

SAMPLES = Path("checkpoints/tiny/samples")  # recordings that ship with nota
DUMMY_TOKENS = 8  # of an answer that random weights give: they know no end, and at full size a token takes its time


@dataclass(frozen=True)
class Clips:
    """Recordings for the parity gate: annotation rows and what their paths are relative to."""

    rows: Sequence[Row]
    audio_root: Path


def parity_clips(recipe: Recipe, annotation: Path | None, audio_root: Path | None, count: int) -> Clips:
    """Rows of an annotation, or of the shipped samples, that the recipe has prompts for; the first `count` of them.

    Raises:
        DataError: there is none.
    """
    if annotation is not None:
        rows, root = read_annotation(annotation), audio_root or annotation.parent
    else:
        root = home() / SAMPLES
        both = [read_annotation(root / name) for name in ("asr.json", "aac.json")]
        rows = [row for pair in zip(*both, strict=True) for row in pair]
    usable = [row for row in rows if row.task in recipe.prompts.tasks and (row.question or row.task != "QA")][:count]
    if not usable:
        raise DataError(f"recipe {recipe.name!r} has prompts for none of the parity clips; name some by --annotation")
    return Clips(usable, root)


def export(
    recipe: Recipe, out: Path, bits: Bits, clips: Clips, load_format: LoadFormat = "auto"
) -> tuple[Manifest, Parity]:
    """Write an export and hold it against its source.

    Args:
        recipe: the system, its checkpoint in it.
        out: the folder; must not be there, or be empty.
        bits: of the weights.
        clips: what both are run over.
        load_format: "dummy" exports random weights of the true size.

    Returns:
        The manifest as it was written, and the comparison.

    Raises:
        RecipeError: a part cannot be exported.
        NotaError: the export is further from its source than it may be; nothing is written then.
    """
    waves = [load_clip(clip_paths(row, clips.audio_root), row=row.number) for row in clips.rows]
    queries = [query_of(row) for row in clips.rows]
    with waiting(f"exporting {recipe.name}"):
        model = source_model(recipe, load_format)
        with atomic_folder(out) as folder:
            manifest = write_export(recipe, model, folder, bits)
            own = load_any_recipe(str(folder))
            assert isinstance(own, ExportRecipe)
            exported = ExportedSalmonn(own, folder)
            dummy = load_format == "dummy"
            parity = compare(model, exported, waves, queries, manifest.bits, DUMMY_TOKENS if dummy else None)
            if parity.failed and not dummy:  # random weights keep nothing that rounding must not lose
                raise NotaError(f"{out} is not written: {_complaint(parity)}")
            manifest = manifest.model_copy(update={"parity": parity.values()})
            write_manifest(folder, manifest)
            (folder / CARD).write_text(model_card(recipe, manifest), encoding="utf-8")
            for terms in _terms(recipe):
                (folder / terms.name).write_bytes(terms.read_bytes())
            other = exported.differing_prompts(queries)
            del exported  # before the folder moves
    if other:
        say(f"the tokenizer inside decoder.gguf cuts {other!r} otherwise than tokenizer.json, which nota uses")
    for theirs, ours in parity.different:
        say(f"another text than torch's: {ours!r}, torch {theirs!r}")
    return manifest, parity


def _terms(recipe: Recipe) -> list[Path]:
    """Files beside the checkpoint whose weights' licences ask to be passed on."""
    folder = None if recipe.checkpoint is None else Path(recipe.checkpoint)
    return [] if folder is None else [path for path in (folder / "NOTICE", folder / "LICENSE") if path.is_file()]


def _complaint(parity: Parity) -> str:
    parts = [f"{part} is off by {parity.errors[part]:.2g} (at most {parity.bounds[part]:g})" for part in parity.failed]
    return f"over {parity.clips} clips, {'; '.join(parts)}. Take more bits for it, or report it with the recipe."
