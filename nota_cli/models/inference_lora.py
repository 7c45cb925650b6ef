"""A model's adapters before it runs: merged into the weights where that is exact, else without what training needs.

LoRA: Hu et al. 2021. Quantized weights are left alone: a merged weight lies off the grid, and quantizing it again is
another model. `nota_cli.compression.merge` does the same to a checkpoint folder.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nota_cli.errors import RecipeError
from nota_cli.models.adapter import AdapterConfig, is_lora_layer
from nota_cli.quantization.gptq_stored import StoredGptqLinear
from nota_cli.recipe.schema import Recipe

if TYPE_CHECKING:
    from nota_cli.models.decoders.decoder import Decoder
    from nota_cli.models.families.salmonn import Salmonn

NOT_EXACT = (
    "a merged weight lies off the grid of quantized ones, so merging is not exact. Run it with its adapters as it is, "
    "or merge the full-precision checkpoint before `nota quantize`"
)
FOLDABLE = ("LoadedLora", "Linear", "GPTQLoraLinear", "Linear4bit")
"""Layers with adapters, PEFT's and the one below, that compute nothing but a layer and a product of two matrices."""


class LoadedLora(nn.Module):
    """A layer and one adapter that is still to be loaded, by PEFT's names; `prepare_to_run` takes it away again.

    Args:
        layer: the adapted layer, `[..., in]` to `[..., out]`.
        rank: of the adapter.
        scale: of what the adapter adds.
    """

    active_adapters = ("default",)
    lora_variant: Mapping[str, Any] = {}
    disable_adapters = merged = False

    def __init__(self, layer: Any, rank: int, scale: float) -> None:
        super().__init__()
        self.base_layer = layer
        self.r, self.scaling = {"default": rank}, {"default": scale}
        # Not half precision, whatever the layer's own type: as PEFT has it.
        up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(up.weight)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": up})

    def get_base_layer(self) -> Any:
        """The adapted layer."""
        return self.base_layer


class LoraNames(nn.Module):
    """A decoder with adapters under the names that PEFT gives its weights; for loading alone, it computes nothing."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_model = nn.Module()
        self.base_model.model = base

    def get_base_model(self) -> Any:
        """The transformers model."""
        return self.base_model.model


def needs_peft(recipe: Recipe, config: AdapterConfig | None) -> bool:
    """Whether a recipe's adapters need PEFT to run, whose import takes seconds.

    Args:
        recipe: the adapter's own rank and targets adopted.
        config: of the adapter; None where the recipe says all.
    """
    if recipe.lora is None:
        return False
    scale = recipe.lora.alpha / recipe.lora.rank if config is None else config.of("")[1]
    targets = recipe.lora.targets if config is None else config.where.get("target_modules", recipe.lora.targets)
    plain = isinstance(targets, list) and all(target.endswith("_proj") for target in targets)
    if config is not None:
        patterns = bool(config.rank_pattern or config.alpha_pattern)
        plain = plain and not (config.dora or patterns or set(config.where) - {"target_modules"})
    nf4 = recipe.decoder.quantization == "nf4"
    return not plain or nf4 or not _is_power_of_two(scale) or recipe.generate.decoding != "auto"


def put_lora(decoder: "Decoder", recipe: Recipe, config: AdapterConfig | None) -> bool:
    """Put adapters without PEFT on the layers that a recipe or an adapter's own config names.

    Args:
        decoder: without adapters.
        recipe: with `lora`; `needs_peft` is False of it.
        config: as there.

    Returns:
        False where that cannot be done, as a target is missing or no linear layer: PEFT says why.
    """
    assert recipe.lora is not None
    rank = recipe.lora.rank if config is None else config.rank
    scale = recipe.lora.alpha / rank if config is None else config.of("")[1]
    targets = recipe.lora.targets if config is None else config.where.get("target_modules", recipe.lora.targets)
    layers = {
        name: layer
        for name, layer in decoder.base.named_modules()
        if name in targets or name.endswith(tuple(f".{target}" for target in targets))
    }
    if not layers or any(type(layer) not in (nn.Linear, StoredGptqLinear) for layer in layers.values()):
        return False
    for name, layer in layers.items():
        device = next(iter(layer.state_dict().values())).device
        decoder.base.set_submodule(name, LoadedLora(layer, rank, scale).to(device))
    decoder.model = LoraNames(decoder.base)  # until `prepare_to_run`
    return True


@torch.no_grad()
def merge_lora(model: "Salmonn", *, rounding: bool = False) -> int:
    """Merge the adapters of a model that only runs from now on, where its weights stay what they would be.

    In float32 the texts are the same and the logits differ in their last digits. Half-precision weights are rounded by
    merging, so they are merged on request alone; quantized ones never are. The merged model is for running: it has
    nothing to be saved as adapters any more (`merge_checkpoint` makes a folder).

    Args:
        model: as built, not to be trained.
        rounding: merge into half-precision weights too.

    Returns:
        Layers merged; 0 if there are no adapters or the decoder is left as it was.
    """
    spec = model.recipe.decoder
    if (
        not hasattr(model.decoder.model, "get_base_model")
        or spec.quantization != "none"
        or (spec.dtype != "float32" and not rounding)
    ):
        return 0
    base = model.decoder.base
    layers = {name: module for name, module in base.named_modules() if is_lora_layer(module)}
    if not all(_mergeable(layer, base) for layer in layers.values()):
        return 0
    for name, layer in layers.items():
        base.set_submodule(name, merged_layer(layer))
    if hasattr(base, "peft_config"):
        del base.peft_config
    model.decoder.model = base
    return len(layers)


@torch.no_grad()
def merged_layer(layer: Any) -> Any:
    """A layer without its adapters, which are in its weights now."""
    plain = layer.get_base_layer()
    for adapter in layer.active_adapters:
        pair = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        total = exact_sum(plain.weight, lora_delta(*pair, layer.scaling[adapter]))
        plain.weight.data = total.to(plain.weight.dtype)
    return plain


def merge_as_asked(model: "Salmonn") -> int:
    """Merge the adapters of a model that only runs from now on as its recipe's `generate.merge_lora` says.

    Returns:
        Layers merged.

    Raises:
        RecipeError: it says `always`, and they cannot be merged.
    """
    merging = model.recipe.generate.merge_lora
    if merging == "never":
        return 0
    always = merging == "always" and model.recipe.lora is not None
    if always and model.recipe.decoder.quantization != "none":
        raise RecipeError(
            f"generate.merge_lora is always, and decoder.quantization is {model.recipe.decoder.quantization}: "
            f"{NOT_EXACT}"
        )
    merged = merge_lora(model, rounding=always)
    if always and not merged and any(map(is_lora_layer, model.decoder.base.modules())):
        raise RecipeError(
            "generate.merge_lora is always, and a layer of lora.targets shares its weights: set it to auto"
        )
    return merged


def prepare_to_run(model: "Salmonn") -> None:
    """Do with the adapters what the recipe asks for; those that stay lose what only training needs.

    With `generate.decoding: plain` they stay peft's. The model cannot be trained or saved any more.

    Raises:
        RecipeError: `generate.merge_lora` is `always`, and they cannot be merged.
    """
    merge_as_asked(model)
    if model.recipe.generate.decoding == "auto":
        use_inference_lora(model)
    if isinstance(model.decoder.model, LoraNames):
        model.decoder.model = model.decoder.base


class InferenceLora(nn.Module):
    """A layer and its one adapter, and nothing that only training needs.

    Args:
        layer: peft's.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        (adapter,) = layer.active_adapters
        self.base_layer = getattr(layer, "quant_linear_module", layer.get_base_layer())
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        self.lora_A, self.lora_B = _frozen(down), _frozen(up.detach() * layer.scaling[adapter])
        self.rounds_first = type(layer).__name__ == "Linear4bit"  # peft rounds what it adds to nf4 layers, then adds

    def forward(self, states: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        plain = self.base_layer(states)
        added = self.lora_B(self.lora_A(states.to(self.lora_A.weight.dtype)))
        total: Tensor = plain + (added.to(plain.dtype) if self.rounds_first else added)
        return total.to(plain.dtype)


def _frozen(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


@torch.no_grad()
def use_inference_lora(model: "Salmonn") -> int:
    """Put plain arithmetic in the place of peft's layers: fewer kernels and less Python a token, the same numbers.

    Layers whose scale is no power of two are left, since folding it into B would round. As after `merge_lora`, the
    model is for running alone: it cannot be trained or saved any more.

    Args:
        model: as built, not to be trained.

    Returns:
        Layers replaced.
    """
    return settle_lora(model.decoder.base)


def settle_lora(base: nn.Module) -> int:
    """As `use_inference_lora`, of any model that holds peft's layers."""
    layers = [(name, layer) for name, layer in base.named_modules() if is_lora_layer(layer) and _plain(layer)]
    for name, layer in layers:
        base.set_submodule(name, InferenceLora(layer).eval())
    return len(layers)


def lora_delta(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """What an adapter adds to a weight, `[out, in]`; in double precision, so that it is rounded once."""
    return scale * (up.double() @ down.double())


def exact_sum(weight: Tensor, delta: Tensor) -> Tensor:
    """A weight with what an adapter adds to it, in double precision, not rounded yet."""
    return weight.double() + delta


def _plain(layer: Any) -> bool:
    """Whether it computes base(x) + (x A^T) B^T scale with one adapter and a scale that costs no rounding."""
    if type(layer).__name__ not in FOLDABLE or len(layer.active_adapters) != 1:
        return False
    (adapter,) = layer.active_adapters
    if layer.disable_adapters or layer.merged or adapter not in layer.lora_A or adapter in layer.lora_variant:
        return False
    return layer.lora_B[adapter].bias is None and _is_power_of_two(layer.scaling[adapter])


def _is_power_of_two(scale: float) -> bool:
    return math.frexp(scale)[0] == 0.5


def _mergeable(layer: Any, base: nn.Module) -> bool:
    """Whether it adapts a plain linear layer, whose weight no other layer uses."""
    plain = layer.get_base_layer()
    if type(plain) is not nn.Linear or set(layer.lora_A) != set(layer.lora_B) or not layer.lora_A:
        return False
    if layer.lora_variant or any(up.bias is not None for up in layer.lora_B.values()):
        return False  # DoRA and its like are more than a product of two matrices
    owners = [module for module in base.modules() if module._parameters.get("weight") is plain.weight]
    return owners == [plain]
