"""`nota recipes`: what there is, what each is made of, and other systems' configs turned into recipes."""

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nota_cli.cli.options import JsonOption, RecipeArgument, SetOption
from nota_cli.console import print_json, say, table, warn
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nota_cli.models.parts import Part
    from nota_cli.recipe.schema import BaseRecipe, Decoder, Encoder, Recipe

NAME_WIDTH = 40  # characters of a weights' name that a table has room for
NOT_STATED = "not stated"  # a public model is not built for its size: its recipe says it, or nobody does
HOW_STATED = "the recipe does not say how many parameters the model has (`model.parameters`)."

app = typer.Typer(
    help="Recipes: one YAML file is one system. List them, show their sizes, import other systems' configs.",
    epilog="Your own model is a recipe of your own: a YAML file with `base: NAME`, a recipe to start from, and the "
    "values that differ, such as `decoder: {path: FOLDER}`. Run it with `nota infer --recipe FILE.yaml`.",
    no_args_is_help=True,
)


@app.command("list", epilog="Example: `nota recipes list`")
def recipes_list(
    family: Annotated[
        str | None,
        typer.Option(
            metavar="<salmonn|transformers>",
            help="List only recipes of this model family; transformers: public models.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that ship with nota, with their parts and their size."""
    if family is not None:
        from nota_cli.recipe.families import family_of

        family_of(family)
    rows = list_recipes(family)
    if as_json:
        print_json({"recipes": rows})
    else:
        table("Recipes", list(rows[0]), [[str(value) for value in row.values()] for row in rows], whole=True)
        say("The first ones run with what ships with nota. Each of the others needs weights from elsewhere:")
        say("`nota download NAME` gets them, or says what is missing.")
        if any(row["parameters"] == NOT_STATED for row in rows):
            say(f"{NOT_STATED}: {HOW_STATED}")


@app.command("show", epilog="Example: `nota recipes show gemma2-2b-gptq`")
def recipes_show(
    recipe: RecipeArgument,
    settings: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how big each part of a recipe is: parameters, and bytes by type of number. Nothing is downloaded.

    Of a public model, also what its publishers report, where they do, and its license.
    """
    from nota_cli.recipe.load import load_any_recipe
    from nota_cli.recipe.public import PublicRecipe

    loaded = load_any_recipe(recipe, settings)
    parts = _parts(loaded)
    terms, reported = (loaded.license, loaded.reported) if isinstance(loaded, PublicRecipe) else ("", {})
    if as_json:
        described = {"recipe": loaded.name, "description": loaded.description, "license": terms}
        print_json({**described, "parts": parts, "reported": reported})
        return
    say(loaded.description)
    if terms:
        say(f"license: {terms}")
    rows = []
    for part in parts:
        large = {name: size for name, size in part["by_type"].items() if size > part["bytes"] / 1000}
        kinds = ", ".join(f"{name} {size / 1e6:,.1f}" for name, size in large.items())
        rows.append([part["part"], part["from"], f"{part['parameters']:,}", f"{part['bytes'] / 1e6:,.1f}", kinds])
    if not rows:
        rows = [["model", ", ".join(loaded.weight_paths().values()), NOT_STATED, NOT_STATED, ""]]
        say(f"{NOT_STATED}: {HOW_STATED}")
    table(loaded.name, ["part", "from", "parameters", "MB", "MB by type"], rows)
    if reported:
        table(
            "Reported by others, not measured here",
            ["of", "figure (source)"],
            [list(each) for each in reported.items()],
        )


@app.command("import", epilog="Example: `nota recipes import train_config.yaml --out mine.yaml`")
def recipes_import(
    config: Annotated[Path, typer.Argument(help="A YAML config of SALMONN, the organisers or a team.")],
    out: Annotated[Path | None, typer.Option(help="The recipe file to write; printed if not given.")] = None,
) -> None:
    """Turn another system's config into a recipe; keys without effect and unknown keys are reported."""
    text = _import(config, out)
    if out is None:
        typer.echo(text, nl=False)


def list_recipes(family: str | None = None) -> list[dict[str, object]]:
    """One row a shipped recipe: its parts, all parameters, all bytes in GB (10^9); no model is built.

    First come those that run as they are, then one whose trained parts ship, then the others, public models last.

    Args:
        family: only recipes of this one.
    """
    from nota_cli.recipe.families import DEFAULT_FAMILY
    from nota_cli.recipe.load import load_any_recipe, recipe_names

    recipes = {name: load_any_recipe(name) for name in recipe_names()}
    rows: list[dict[str, object]] = []
    for name, recipe in sorted(recipes.items(), key=lambda item: (_needs(item[1]), item[0])):
        if family not in (None, recipe.family):
            continue
        unknown = "?" if recipe.family == DEFAULT_FAMILY else NOT_STATED
        size: dict[str, object] = {"parameters": unknown, "GB": unknown}
        try:
            parts = _part_sizes(recipe)
        except UsageError as error:  # one that lacks a file of the user's own does not hide the others
            warn(f"{name}: {error}")
            parts = []
        if parts:
            size["parameters"] = f"{sum(part.parameters for part in parts) / 1e6:,.1f} M"
            size["GB"] = round(sum(part.bytes for part in parts) / 1e9, 3)
        rows.append({"recipe": name, **_summary(recipe), **size})
    return rows


def _needs(recipe: "BaseRecipe") -> int:
    """0: nothing but nota. 1: some weights, though what was trained ships. 2: weights; 3: those of a public model."""
    from nota_cli.assets import home
    from nota_cli.recipe.families import DEFAULT_FAMILY

    def ships(path: str | None) -> bool:
        return path is not None and Path(path).is_relative_to(home())

    if not ships(recipe.checkpoint):
        return 2 if recipe.family == DEFAULT_FAMILY else 3
    return 0 if all(map(ships, recipe.weight_paths().values())) else 1


def _summary(recipe: "BaseRecipe") -> dict[str, object]:
    """The names of a recipe's encoders and of its decoder; a model of another family is named as the last."""
    from nota_cli.hub_names import hub_name
    from nota_cli.recipe.schema import Recipe

    if not isinstance(recipe, Recipe):
        named = [(hub_name(path), path) for path in recipe.weight_paths().values()]
        names = [os.path.basename(path if name is None else name.inside or name.repo) for name, path in named]
        return {"speech encoder": "", "audio encoder": "", "decoder": ", ".join(names)}
    return {
        "speech encoder": _short(recipe.speech_encoder),
        "audio encoder": _short(recipe.audio_encoder),
        "decoder": f"{_short(recipe.decoder)} {_weights(recipe)}",
    }


def _part_sizes(recipe: "BaseRecipe") -> "Sequence[Part]":
    """The sizes of a recipe's parts, by its family's arithmetic."""
    from nota_cli.recipe.families import family_of, imported

    sizes: Sequence[Part] = imported(family_of(recipe.family).sizes)(recipe)
    return sizes


def _parts(recipe: "BaseRecipe") -> list[dict[str, Any]]:
    """One row a part: where its weights come from, parameters, bytes, bytes by type of number; then their sum.

    None where the recipe does not state its size.
    """
    from nota_cli.recipe.schema import Recipe

    sources: dict[str, str] = {}
    for key, path in recipe.weight_paths().items():
        sources.setdefault(key.split(".")[0], path)
    if isinstance(recipe, Recipe):
        sources = {
            "speech_encoder": _source_of(recipe.speech_encoder),
            "audio_encoder": _source_of(recipe.audio_encoder),
            "decoder": _source_of(recipe.decoder),
        }
    parts = _part_sizes(recipe)
    if not parts:
        return []
    rows: list[dict[str, Any]] = [
        {
            "part": part.name,
            "from": sources.get(part.name.split(":")[0], "trained here"),
            "parameters": part.parameters,
            "bytes": part.bytes,
            "by_type": dict(part.by_type),
        }
        for part in parts
    ]
    total: Counter[str] = sum((Counter(part.by_type) for part in parts), Counter())
    parameters, size = sum(part.parameters for part in parts), sum(part.bytes for part in parts)
    return [*rows, {"part": "all", "from": "", "parameters": parameters, "bytes": size, "by_type": dict(total)}]


def _import(config: Path, out: Path | None) -> str:
    """Another system's config as a recipe's YAML; what it lost on the way is reported on stderr."""
    from nota_cli.cli.guards import check_import
    from nota_cli.console import fits_stdout
    from nota_cli.files import write_text
    from nota_cli.recipe.importer import import_config
    from nota_cli.recipe.load import dump_recipe
    from nota_cli.recipe.schema import Recipe

    check_import(out, config)
    imported = import_config(config)
    recipe = Recipe.model_validate(imported.values)
    for note in imported.notes:
        say(f"note: {note}")
    for key in imported.unknown:
        warn(f"{config}: unknown key {key}, left out")
    text = f"# From {config.name}. nota infer --recipe {out.name if out else 'THIS.yaml'} --annotation test.json\n"
    dumped = dump_recipe(recipe)
    text += dumped if out is not None or fits_stdout(dumped) else dump_recipe(recipe, ascii_only=True)
    if out is not None:
        write_text(out, text)
        say(f"recipe {recipe.name} written to {out}")
    return text


def _source_of(spec: "Encoder | Decoder") -> str:
    """Where a part's weights come from, as short as it can be named."""
    if getattr(spec, "kind", "") == "none":
        return "none"
    if spec.path is None:
        return "trained here"
    return min(os.path.relpath(spec.path), spec.path, key=len) if os.path.isabs(spec.path) else spec.path


def _short(spec: "Encoder | Decoder") -> str:
    """The last part of where weights come from; the kind of encoder for a long file name."""
    name = os.path.basename(_source_of(spec))
    return name if len(name) <= NAME_WIDTH else getattr(spec, "kind", name)


def _weights(recipe: "Recipe") -> str:
    return recipe.decoder.dtype if recipe.decoder.quantization == "none" else recipe.decoder.quantization
