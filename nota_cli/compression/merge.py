"""LoRA adapters of a checkpoint folder merged into its decoder, where that is exact: nothing is left to multiply."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nota_cli.compression.folders import decoder_folder, read_recipe, refuse_used, rewrite_decoder
from nota_cli.errors import CheckpointError, RecipeError, listing
from nota_cli.files import atomic_folder
from nota_cli.models.adapter import PEFT_PREFIX, check_ranks, read_config, read_weights
from nota_cli.models.checkpoint import WEIGHTS
from nota_cli.models.inference_lora import NOT_EXACT, exact_sum, lora_delta
from nota_cli.quantization.gptq_format import quantization_method
from nota_cli.recipe.load import dump_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.weights.files import read_safetensors, refuse_non_finite
from nota_cli.weights.state_dicts import SHELL

FAN = "fan_in_fan_out"
PAIR = (".lora_A.weight", ".lora_B.weight")


@dataclass(frozen=True)
class MergeReport:
    """What `merge_checkpoint` did.

    Attributes:
        folder: the new checkpoint.
        layers: adapted layers.
        lost: largest share of a layer's adaptation that rounding to the stored type took away, |stored - exact| /
            |adaptation|.
    """

    folder: Path
    layers: int
    lost: float


def merge_checkpoint(checkpoint: Path, out: Path, *, rounding: bool = False) -> MergeReport:
    """Write a checkpoint folder whose decoder holds the adapters of another one merged in; it gives the same texts.

    The decoder is stored in the new folder, also where it was a published one that the recipe named.

    Args:
        checkpoint: a folder of ours with LoRA over a full-precision decoder.
        out: where to; must not exist, or be empty.
        rounding: merge although `decoder.dtype` is half precision, which rounds the merged weights.

    Raises:
        RecipeError: there are no adapters, the decoder is quantized or in half precision, or an adapted layer shares
            its weights with another one.
        UsageError: `out` is not empty.
        CheckpointError: the checkpoint is not one, or is damaged.
    """
    recipe = read_recipe(checkpoint)
    refuse_used(out)
    _refuse_inexact(recipe, checkpoint, rounding)
    source = decoder_folder(recipe)
    if method := quantization_method(source):
        raise RecipeError(f"decoder {source} is quantized ({method}); {NOT_EXACT}")
    deltas = _read_deltas(checkpoint / "adapter", recipe)
    dtype = getattr(torch, recipe.decoder.dtype)
    left, lost = set(deltas), [0.0]

    def change(name: str, tensor: Tensor) -> Tensor:
        if name not in deltas:
            return tensor
        delta = lora_delta(*deltas[name])
        if tensor.shape != delta.shape:
            raise CheckpointError(f"{name} is {list(tensor.shape)} in {source}, its adapter {list(delta.shape)}")
        left.discard(name)
        exact = exact_sum(tensor.to(dtype), delta)  # what an unmerged model has in memory
        merged = exact.to(dtype)
        lost.append(float((merged.double() - exact).norm() / delta.norm().clamp(min=torch.finfo(torch.double).tiny)))
        return merged

    with atomic_folder(out) as folder:
        rewrite_decoder(source, folder / "decoder", change=change)
        if left:
            raise RecipeError(
                "lora.targets: these layers share their weights with others, or the decoder has them not, so their "
                f"adapters cannot be merged:\n{listing(sorted(left))}"
            )
        refuse_non_finite(checkpoint / WEIGHTS, read_safetensors(checkpoint / WEIGHTS))
        shutil.copyfile(checkpoint / WEIGHTS, folder / WEIGHTS)
        decoder = recipe.decoder.model_copy(update={"path": "./decoder"})
        merged = recipe.model_copy(update={"decoder": decoder, "lora": None})
        (folder / "recipe.yaml").write_text(dump_recipe(merged), encoding="utf-8")
    return MergeReport(out, len(deltas), max(lost))


def _refuse_inexact(recipe: Recipe, checkpoint: Path, rounding: bool) -> None:
    spec = recipe.decoder
    if recipe.lora is None:
        raise RecipeError(f"checkpoint {checkpoint}: its recipe has no `lora`, so there is nothing to merge")
    if spec.quantization != "none":
        raise RecipeError(f"decoder.quantization is {spec.quantization}: {NOT_EXACT}")
    if spec.dtype != "float32" and not rounding:
        raise RecipeError(
            f"decoder.dtype is {spec.dtype}, to which merged weights would be rounded. Ask for that rounding, or set "
            "decoder.dtype to float32 in the checkpoint's recipe.yaml"
        )


def _read_deltas(folder: Path, recipe: Recipe) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A, B and scale of each adapted layer by the name of the weight; the adapter's own config tells the scale."""
    config = read_config(folder)
    for key, on in (("use_dora", config and config.dora), ("fan_in_fan_out", config and config.where.get(FAN))):
        if config is not None and on:
            raise RecipeError(f"{config.file}: {key} is true, which cannot be merged here: merge the adapter with PEFT")
    file, stored = read_weights(folder)
    tensors = {SHELL.sub("", name).replace(".default.weight", ".weight"): value for name, value in stored.items()}
    if config is not None:
        check_ranks(config, file, tensors)
    stems = {name.removesuffix(suffix) for name in tensors for suffix in PAIR if name.endswith(suffix)}
    expected = {stem + suffix for stem in stems for suffix in PAIR}
    wrong = sorted(expected ^ set(tensors))
    if wrong or not stems or recipe.lora is None:
        raise CheckpointError(f"{file}: not pairs of LoRA matrices for linear layers:\n{listing(wrong)}")
    recipe_scale = recipe.lora.alpha / recipe.lora.rank
    deltas = {}
    for stem in stems:
        layer = stem.removeprefix(PEFT_PREFIX)
        scale = recipe_scale if config is None else config.of(layer)[1]
        deltas[f"{layer}.weight"] = tensors[stem + PAIR[0]], tensors[stem + PAIR[1]], scale
    return deltas
