"""Models of the true size with random weights: nothing downloaded, no full-precision copy of what is quantized.

For building and measuring alone. A model is built on the meta device, its linear layers are replaced by quantized ones
there, as when a quantized folder is loaded, and then every tensor is filled cheaply with random numbers.
"""

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nota_cli.errors import RecipeError
from nota_cli.quantization.base import quantizer
from nota_cli.quantization.gptq_runtime import is_gptq_layer, quietly
from nota_cli.quantization.weight_only import Int4PackLinear, PackedLinear
from nota_cli.recipe.quantizers import QUANTIZERS
from nota_cli.weights.attention import default_attention

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

STD = 0.02  # of weights, dequantized ones included: what most models start from
BLOCK = 1_048_573  # random numbers drawn, and repeated; a prime, so that rows of a matrix do not repeat


def dummy_decoder(
    config: "PreTrainedConfig",
    quantization: str,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    kernel: str = "auto",
    seed: int = 0,
    **packing: int,
) -> "PreTrainedModel":
    """A causal language model of the config's size with random weights, in evaluation mode.

    Args:
        config: of a model that `AutoModelForCausalLM` builds; left as it is.
        quantization: "none", "gptq" or "nf4" (double quantization), of all linear layers but the output layer.
        dtype: of everything that is not quantized, and of the arithmetic.
        device: "meta" gives all shapes and types, and allocates nothing.
        kernel: of `nota_cli.quantization.gptq.load_gptq_decoder`; on the meta device the torch kernel stands for all.
        seed: the same seed gives the same model.
        packing: what the quantizer wants to know: `bits` of a GPTQ weight (4), and `group_size`, how many of them
            share a scale (128).

    Raises:
        RecipeError: no GPTQ layers of these bits, group size and kernel can be made for this model here.
        UsageError: the package that quantized layers need is not installed.
    """
    from transformers import AutoModelForCausalLM

    if quantization not in ("none", *QUANTIZERS):
        raise RecipeError(f"decoder.quantization: {quantization!r} is not one of none, {', '.join(QUANTIZERS)}")
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the folder that the config comes from
    attention = default_attention(config)
    with torch.device("meta"), quietly():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    entry = None if quantization == "none" else quantizer(quantization)
    replaced: Any = None
    if entry is not None:
        try:
            replaced = entry.replace_linears(model, dtype, device, kernel, packing)
        except (ValueError, NotImplementedError) as error:
            raise RecipeError(f"decoder: no {quantization} layers can be made for this model: {error}") from error
        if not any(packed_tensors(module) or entry.is_layer(module) for module in model.modules()):
            raise RecipeError(f"decoder: a {type(model).__name__} has no layers that {quantization} quantizes")
    _materialise(model, _Source(device, seed))
    if replaced is not None:
        model.hf_quantizer = replaced
        with quietly():
            replaced.postprocess_model(model)
    if entry is not None:
        entry.finish(model, dtype)
    model.eval()
    return model


def dummy_init(module: nn.Module, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Fill a module that was built on the meta device with random weights, on `device` in `dtype`; returns it.

    Norms begin as if absent, biases at zero; what a transformers model computes (Whisper's table of sines) is computed.

    Raises:
        ValueError: a buffer is neither computed by a transformers model nor a batch norm's, so its value is not known.
    """
    module.to(dtype)
    _materialise(module, _Source(device, seed))
    return module.eval()


def logical_parameters(model: nn.Module) -> int:
    """Parameters of `model` as if nothing were quantized: a packed weight counts as the matrix that it stands for."""
    count, seen = 0, set[int]()
    for module in model.modules():
        tensors: list[Tensor] = list(module.parameters(recurse=False))
        if packed_tensors(module):
            layer: Any = module
            count += layer.in_features * layer.out_features
            tensors = [] if layer.bias is None else [layer.bias]
        count += sum(tensor.numel() for tensor in tensors if id(tensor) not in seen)
        seen.update(id(tensor) for tensor in tensors)
    return count


def packed_tensors(module: Any) -> list[Tensor]:
    """The tensors that stand for the weight of a layer of 8 bits or less; empty for any other module."""
    # Not getattr(module, "weight"): the wrappers of PEFT show the weight of the layer inside them as theirs.
    state = getattr(module._parameters.get("weight"), "quant_state", None)
    if state is not None:
        nested = [state.offset, state.state2.absmax, state.state2.code] if state.nested else []
        return [module.weight, state.absmax, state.code, *nested]
    packed = is_gptq_layer(module) or isinstance(module, PackedLinear | Int4PackLinear)
    return [value for name, value in module.named_buffers(recurse=False) if packed and name != "bias"]


class _Source:
    """Random numbers, drawn once and repeated: memory is filled about as fast as it can be written."""

    def __init__(self, device: str, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.device = torch.device(device)
        self._words = torch.randint(-(2**31), 2**31, (BLOCK,), generator=generator, dtype=torch.int32).to(device)
        self._normal = {torch.float32: (torch.randn(BLOCK, generator=generator) * STD).to(device)}
        self._start = 0

    def normal(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Normal numbers of standard deviation `STD`."""
        if dtype not in self._normal:
            self._normal[dtype] = self._normal[torch.float32].to(dtype)
        return self._repeat(self._normal[dtype], shape)

    def bits(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Integers of any type, every bit random."""
        return self._repeat(self._words.view(dtype), shape)

    def near(self, value: float, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Positive numbers around `value`, 0.8 to 1.2 times as large."""
        fraction = self.bits(shape, torch.uint8).float() / 255
        return (value * (0.8 + 0.4 * fraction)).to(dtype)

    def _repeat(self, block: Tensor, shape: torch.Size) -> Tensor:
        tensor = torch.empty(shape, dtype=block.dtype, device=self.device)
        flat = tensor.view(-1)
        self._start = at = (self._start + 7919) % BLOCK  # another beginning for every tensor
        done = 0
        while done < flat.numel():
            piece = block[at : at + flat.numel() - done]
            flat[done : done + piece.numel()] = piece
            done, at = done + piece.numel(), 0
        return tensor


def _materialise(model: nn.Module, source: _Source) -> None:
    """Give every tensor of `model` that is on the meta device memory and a value."""
    from transformers import PreTrainedModel

    computed: set[nn.Module] = set()  # by transformers, below
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            computed.update(module.modules())
    quantizers = [quantizer(name) for name in QUANTIZERS]
    filled: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        own = next((entry for entry in quantizers if entry.is_layer(module)), None)
        if own is not None:
            own.fill(module, source, STD)
        elif isinstance(module, PackedLinear):
            _fill_packed(module, source, filled)
        else:
            _fill_parameters(module, source, filled)
            _fill_buffers(module, source, module in computed)
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.initialize_weights()  # passes over what is marked as filled
            with torch.no_grad():
                module._init_weights(module)  # the former passes over models that are not transformers' own classes


def _fill_parameters(module: nn.Module, source: _Source, filled: dict[int, nn.Parameter]) -> None:
    for name, parameter in module._parameters.items():
        if parameter is None or not parameter.is_meta:
            continue
        if id(parameter) not in filled:
            if name == "bias":
                value = torch.zeros(parameter.shape, dtype=parameter.dtype, device=source.device)
            elif "Norm" in type(module).__name__:
                value = torch.ones(parameter.shape, dtype=parameter.dtype, device=source.device)
            else:
                value = source.normal(parameter.shape, parameter.dtype)
            new: Any = nn.Parameter(value, requires_grad=parameter.requires_grad)
            # transformers' own initialization shall redo the small ones (Gemma's norms) and the fixed ones (Whisper's
            # table of sines) as the model wants them, and leave alone the large ones, which it would take minutes for.
            new._is_hf_initialized = parameter.requires_grad and parameter.ndim > 1
            filled[id(parameter)] = new
        module._parameters[name] = filled[id(parameter)]


def _fill_buffers(module: nn.Module, source: _Source, computed: bool) -> None:
    for name, buffer in module._buffers.items():
        if buffer is None or not buffer.is_meta:
            continue
        if not computed and name not in ("running_mean", "running_var", "num_batches_tracked"):
            raise ValueError(f"{type(module).__name__}: the value of the buffer {name!r} is not known")
        value = torch.zeros_like(buffer, device=source.device)
        module._buffers[name] = value.fill_(1) if name == "running_var" else value


def _fill_packed(module: PackedLinear, source: _Source, filled: dict[int, nn.Parameter]) -> None:
    """Random codes with scales that bring them to `STD`, and zero points in the middle."""
    module.codes = source.bits(module.codes.shape, module.codes.dtype)
    spread = math.sqrt((4**module.bits - 1) / 12)
    module.scales = source.near(STD / spread, module.scales.shape, torch.bfloat16)
    if module.zeros is not None:
        module.zeros = torch.full_like(module.zeros, 8, device=source.device)
    _fill_parameters(module, source, filled)
