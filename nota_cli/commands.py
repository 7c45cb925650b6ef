"""What the longer commands do, step by step; the others are one call each."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from nota_cli.commands_recipes import source_of
from nota_cli.compress.merge import prepare_to_run
from nota_cli.console import fits_stdout, say, waiting, warn
from nota_cli.data.annotation import read_annotation
from nota_cli.errors import CheckpointError
from nota_cli.files import check_writable, write_text
from nota_cli.guards import check_checkpoint, check_import, check_tokenizer
from nota_cli.model.audio_lm import AudioLM
from nota_cli.model.build import build
from nota_cli.model.checkpoint import KeyReport, load_checkpoint, makes_decoder, save_checkpoint, saved_names
from nota_cli.model.inventory import inventory
from nota_cli.outputs import Input
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.importer import import_config
from nota_cli.recipe.load import dump_recipe, load_recipe
from nota_cli.recipe.schema import LoadFormat, Recipe


@dataclass(frozen=True)
class Loading:
    """How weights come into the model; see `nota_cli.model.build.build`."""

    format: LoadFormat = "auto"
    allow_missing: bool = False


def load(recipe: Recipe, device: str, loading: Loading = Loading()) -> AudioLM:
    """Build the model and say what it runs on."""
    with waiting(f"loading recipe {recipe.name} on {device}"):
        model = build(recipe, device, load_format=loading.format, allow_missing=loading.allow_missing)
        prepare_to_run(model)
    kernel, how = model.decoder.kernel, {"gptq": "GPTQ", "nf4": "nf4"}.get(recipe.decoder.quantisation)
    note = "" if how is None else f", 4-bit {how} decoder on the {kernel} kernel"
    weights = " with dummy weights (no checkpoint is read, its texts mean nothing)" if loading.format == "dummy" else ""
    say(f"recipe {recipe.name}{weights} on {device}{note}")
    return model


def run_prepare_tokenizer(recipe_name: str, out: Path) -> int:
    """A tokenizer folder over every word that the recipe's prompts and training texts use; returns their number."""
    from nota_cli.data.tokenizer import build_word_tokenizer

    recipe = load_recipe(recipe_name)
    check_tokenizer(out, recipe)
    texts = [part for task in recipe.prompts.tasks for part in wrap(recipe.prompts, Query(task, "what is it"))]
    for source in recipe.data.train:
        for row in read_annotation(Path(source.annotation)):
            texts += [row.text or "", *row.texts]
    return len(build_word_tokenizer(texts, out))


def show_recipe(recipe: Recipe) -> list[dict[str, object]]:
    """One row a part: where its weights come from, parameters, bytes, bytes by type of number; then their sum."""
    sources = {
        "speech_encoder": source_of(recipe.speech_encoder),
        "audio_encoder": source_of(recipe.audio_encoder),
        "decoder": source_of(recipe.decoder),
    }
    parts = inventory(build(recipe, "meta", load_format="dummy"))
    rows = [
        {
            "part": part.name,
            "from": sources.get(part.name.split(":")[0], "trained here"),
            "parameters": part.parameters,
            "bytes": part.bytes,
            "by_type": part.by_type,
        }
        for part in parts
    ]
    total: Counter[str] = sum((Counter(part.by_type) for part in parts), Counter())
    parameters, size = sum(part.parameters for part in parts), sum(part.bytes for part in parts)
    return [*rows, {"part": "all", "from": "", "parameters": parameters, "bytes": size, "by_type": dict(total)}]


def run_import(config: Path, out: Path | None) -> str:
    """Another system's config as a recipe's YAML; what it lost on the way is reported on stderr."""
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


def run_convert(file: Path, recipe: Recipe, out: Path) -> KeyReport:
    """A `.pth` to a checkpoint folder, over a model of which nothing else is allocated."""
    check_checkpoint(out, recipe, [Input("the checkpoint", file)])
    check_writable(out / "recipe.yaml")
    model = build(recipe.model_copy(update={"checkpoint": None}), "meta", load_format="dummy", pack=False)
    report = load_checkpoint(model, file)
    if makes_decoder(recipe) and any(tensor.is_meta for tensor in model.decoder.state_dict().values()):
        raise CheckpointError(
            f"{file} does not hold the decoder that recipe {recipe.name!r} trains itself: name a published one by "
            "decoder.path, and leave decoder.train and decoder.config out"
        )
    dropped = Counter(name.split(".")[0] for name in set(report.matched) - saved_names(model))
    if dropped:
        raise CheckpointError(
            f"{file} holds weights that the recipe takes from a path: {', '.join(sorted(dropped))}. Keep them by "
            + " ".join(f"--set {part}.train=true" for part in sorted(dropped))
        )
    save_checkpoint(model, out)
    return report
