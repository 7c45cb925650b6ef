"""A model's adapters before it runs: merged into the weights where that is exact, else without what training needs.

LoRA: Hu et al. 2021. Quantized weights are left alone: a merged weight lies off the grid, and quantizing it again is
another model. `nota_cli.compression.merge` does the same to a checkpoint folder.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nota_cli.errors import RecipeError

if TYPE_CHECKING:
    from nota_cli.models.families.salmonn import AudioLM

NOT_EXACT = (
    "a merged weight lies off the grid of quantized ones, so merging is not exact. Run it with its adapters as it is, "
    "or merge the full-precision checkpoint before `nota quantize`"
)


@torch.no_grad()
def merge_lora(model: "AudioLM", *, rounding: bool = False) -> int:
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
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    spec, peft = model.recipe.decoder, model.decoder.model
    if not isinstance(peft, PeftModel) or spec.quantization != "none" or (spec.dtype != "float32" and not rounding):
        return 0
    base = model.decoder.base
    layers = {name: module for name, module in base.named_modules() if isinstance(module, LoraLayer)}
    if not all(_mergeable(layer, base) for layer in layers.values()):
        return 0
    for name, layer in layers.items():
        plain = layer.get_base_layer()
        for adapter in layer.active_adapters:
            pair = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            plain.weight.data = exact_sum(plain.weight, lora_delta(*pair, layer.scaling[adapter])).to(
                plain.weight.dtype
            )
        base.set_submodule(name, plain)
    if hasattr(base, "peft_config"):
        del base.peft_config
    model.decoder.model = base
    return len(layers)


def merge_as_asked(model: "AudioLM") -> int:
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
    if always and not merged and hasattr(model.decoder.base, "peft_config"):
        raise RecipeError(
            "generate.merge_lora is always, and a layer of lora.targets shares its weights: set it to auto"
        )
    return merged


def prepare_to_run(model: "AudioLM") -> None:
    """Do with the adapters what the recipe asks for; those that stay lose what only training needs.

    With `generate.decoding: plain` they stay peft's. The model cannot be trained or saved any more.

    Raises:
        RecipeError: `generate.merge_lora` is `always`, and they cannot be merged.
    """
    merge_as_asked(model)
    if model.recipe.generate.decoding == "auto":
        use_inference_lora(model)


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
        return (plain + (added.to(plain.dtype) if self.rounds_first else added)).to(plain.dtype)


def _frozen(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    return linear


@torch.no_grad()
def use_inference_lora(model: "AudioLM") -> int:
    """Put plain arithmetic in the place of peft's layers: fewer kernels and less Python a token, the same numbers.

    Layers whose scale is no power of two are left, since folding it into B would round. As after `merge_lora`, the
    model is for running alone: it cannot be trained or saved any more.

    Args:
        model: as built, not to be trained.

    Returns:
        Layers replaced.
    """
    from peft.tuners.lora import LoraLayer

    base = model.decoder.base
    layers = [(name, layer) for name, layer in base.named_modules() if isinstance(layer, LoraLayer) and _plain(layer)]
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
    if type(layer).__name__ not in ("Linear", "GPTQLoraLinear", "Linear4bit") or len(layer.active_adapters) != 1:
        return False
    (adapter,) = layer.active_adapters
    if layer.disable_adapters or layer.merged or adapter not in layer.lora_A or adapter in layer.lora_variant:
        return False
    return layer.lora_B[adapter].bias is None and math.frexp(layer.scaling[adapter])[0] == 0.5


def _mergeable(layer: Any, base: nn.Module) -> bool:
    """Whether it adapts a plain linear layer, whose weight no other layer uses."""
    plain = layer.get_base_layer()
    if type(plain) is not nn.Linear or set(layer.lora_A) != set(layer.lora_B) or not layer.lora_A:
        return False
    if layer.lora_variant or any(up.bias is not None for up in layer.lora_B.values()):
        return False  # DoRA and its like are more than a product of two matrices
    owners = [module for module in base.modules() if module._parameters.get("weight") is plain.weight]
    return owners == [plain]
