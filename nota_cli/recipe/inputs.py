"""The files and folders that a recipe makes a command read."""

from collections.abc import Iterator
from pathlib import Path

from nota_cli.outputs import Input
from nota_cli.paths import shard_files
from nota_cli.recipe.schema import BaseRecipe, Recipe

PARTS = {
    "speech_encoder.path": "the speech encoder",
    "audio_encoder.path": "the audio encoder",
    "decoder.path": "the decoder",
    "decoder.tokenizer": "the tokenizer",
    "model.path": "the model",
}


def recipe_inputs(recipe: BaseRecipe) -> Iterator[Input]:
    """The recipe's files, the weights and tokenizer that it names as local paths, and its annotations."""
    for file in recipe.files:
        yield Input("a file of the recipe", file)
    weights = {"the checkpoint": recipe.checkpoint}
    if isinstance(recipe, Recipe):
        weights["the checkpoint of train.init"] = recipe.train.init
        weights["the teacher"] = None if recipe.train.distill is None else recipe.train.distill.teacher
    weights |= {PARTS.get(key, key): path for key, path in recipe.weight_paths().items()}
    for label, path in weights.items():
        if path is not None and Path(path).expanduser().exists():  # else a name on the hub
            yield Input(label, Path(path).expanduser(), whole=True)
    data = recipe.data
    for source in (*data.train, *data.validation, *data.test.values(), *data.calibration):
        for annotation in shard_files(source.annotation):
            yield Input("an annotation of the recipe", Path(annotation))
        background = getattr(source, "background", None)
        if background is not None:
            yield Input("an annotation of the recipe", Path(background))
