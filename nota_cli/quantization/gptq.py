"""4-bit GPTQ decoders: loading them through transformers, optimum and gptqmodel, without a compiler, on a named kernel.

`nota_cli.compression.gptq` makes them; `gptq_runtime.py` holds what both know about gptqmodel.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.quantization.base import Quantizer, RandomNumbers
from nota_cli.quantization.gptq_format import (
    CONFIG,
    FORMATS,
    GptqSettings,
    check_values,
    middle_words,
    quantization_method,
    read_settings,
    stated_settings,
)
from nota_cli.quantization.gptq_runtime import (
    exact_scales,
    import_gptqmodel,
    is_gptq_layer,
    quantized_layers,
    quietly,
    short_name,
    silence_gptqmodel,
)
from nota_cli.quantization.gptq_stored import BITS, stored_config
from nota_cli.quantization.weight_only import CPU_KERNELS, Int4PackLinear, PackedLinear
from nota_cli.weights.attention import default_attention
from nota_cli.weights.fit import refuse_misfits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SYMMETRIC_KERNELS = ("torch_fused",)  # takes the middle code for every zero point, whatever the file says (7.6)

__all__ = [
    "available_kernels",
    "cache_weights",
    "count_quantized",
    "is_gptq_folder",
    "kernel_name",
    "load_gptq_decoder",
    "silence_gptqmodel",
]


def is_gptq_folder(folder: Path) -> bool:
    """Whether `folder` holds a GPTQ checkpoint: its config.json says so, or it has AutoGPTQ's quantize_config.json.

    Raises:
        CheckpointError: one of these files is not JSON, or they contradict each other.
    """
    return stated_settings(Path(folder)) is not None


def load_gptq_decoder(
    folder: Path,
    kernel: str = "auto",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    attn_implementation: str | None = None,
    key_mapping: dict[str, str] | None = None,
    stored: bool = False,
) -> "PreTrainedModel":
    """Load an AutoGPTQ-format folder; the model comes in evaluation mode.

    Args:
        folder: config.json with `quantization_config`, safetensors with qweight, qzeros, scales, g_idx.
        kernel: `auto`: on CPU gptqmodel's `torch` kernel, which needs no C++ compiler and can be trained through;
            elsewhere gptqmodel's choice (`auto_trainable`: its choice among those that train). Or a name from
            `available_kernels`. What was chosen: `kernel_name`.
        dtype: of everything that is not quantized, and of the arithmetic.
        device: "cpu", "cuda", "cuda:1" ...
        attn_implementation: transformers' name; by default "eager" where the model caps attention scores (Gemma 2),
            which the fused kernels leave out, else "sdpa".
        key_mapping: patterns in the names of stored weights and what takes their place, as transformers' own.
        stored: leave 4-bit layers as they lie in the file (`gptq_stored.py`), for `repack_gptq` alone; gptqmodel is not
            imported then, and `kernel` does not count.

    Raises:
        CheckpointError: no GPTQ checkpoint there, or weights missing, unexpected or of another shape.
        RecipeError: the kernel is unknown or cannot run this checkpoint here.
    """
    folder = Path(folder)
    try:
        settings = read_settings(folder)
    except CheckpointError as error:
        raise CheckpointError(f"GPTQ decoder {folder}: {error}") from error
    if settings is None:
        method = quantization_method(folder)
        other = "" if method is None else f"; it is {method!r} there"
        raise CheckpointError(
            f"{folder} is not a GPTQ checkpoint: no config.json there with quantization_config.quant_method 'gptq'"
            f"{other}. Quantize the decoder first, or set decoder.quantization to none."
        )
    stored = stored and settings.bits == BITS and settings.layers is not None
    if not stored:
        import_gptqmodel()
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    if stored:
        quantization = stored_config(settings.layers or (), settings.group_size, settings.checkpoint_format)
    else:
        quantization = settings.for_optimum(_choose_kernel(kernel, torch.device(device), dtype, settings))
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config.quantization_config = quantization
        if attn_implementation is None:
            attn_implementation = default_attention(config)
        factory: Any = AutoModelForCausalLM  # whose types leave out that it may return two things
        with quietly():
            model, report = factory.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map={"": device},
                attn_implementation=attn_implementation,
                output_loading_info=True,
                key_mapping=key_mapping,
                ignore_mismatched_sizes=True,  # they are reported below, with the rest
            )
    except (OSError, ValueError, KeyError, StrictDataclassError, SafetensorError) as error:
        raise CheckpointError(f"GPTQ decoder {folder}: {error}") from error
    refuse_misfits(f"GPTQ decoder {folder}", config, report)
    for module in quantized_layers(model).values():
        _without_compile(module)
        if settings.checkpoint_format == FORMATS[1]:
            module.qzero_format(format=2)  # optimum tells the layers only where it converts them itself
        if dtype == torch.float32:
            exact_scales(module)
    model.eval()
    return cast("PreTrainedModel", model)


def available_kernels(device: str = "cpu") -> list[str]:
    """Names of gptqmodel's GPTQ kernels that are written for this kind of device, the ones it prefers first.

    Some may still refuse a checkpoint's bits or group size, or want a compiler or package that is not there.
    """
    import_gptqmodel()
    from gptqmodel.models._const import DEVICE
    from gptqmodel.quantization import FORMAT, METHOD
    from gptqmodel.utils.importer import iter_quant_linear_kernels

    kind = DEVICE(torch.device(device).type)
    kernels = [
        (kernel.SUPPORTS_FORMATS[FORMAT.GPTQ], short_name(backend))
        for kernel in iter_quant_linear_kernels()
        if METHOD.GPTQ in kernel.SUPPORTS_METHODS and FORMAT.GPTQ in kernel.SUPPORTS_FORMATS
        if kind in kernel.SUPPORTS_DEVICES or DEVICE.ALL in kernel.SUPPORTS_DEVICES
        for backend in kernel.SUPPORTS_BACKENDS
    ]
    return [name for _, name in sorted(kernels, reverse=True)]


def kernel_name(model: nn.Module) -> str:
    """The GPTQ kernel that `model`'s layers run on, as in `available_kernels`; "none" if nothing is quantized."""
    return next((short_name(module.backend) for module in quantized_layers(model).values()), "none")


def count_quantized(model: nn.Module) -> dict[str, Any]:
    """How much of `model` is quantized.

    Returns:
        `quantized` and `linear`: numbers of quantized layers and of ordinary linear layers (adapters not counted);
        `bits`: None if nothing is quantized; `kernel_class`: the layers' class, or None.
    """
    named = dict(model.named_modules())
    repacked = {name: module for name, module in named.items() if isinstance(module, PackedLinear | Int4PackLinear)}
    quantized = quantized_layers(model) | repacked
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".lora_" not in name]
    one = next(iter(quantized.values()), None)
    return {
        "quantized": len(quantized),
        "linear": len(linear),
        "bits": None if one is None else int(one.bits),
        "kernel_class": None if one is None else type(one).__name__,
    }


def cache_weights(model: nn.Module, enabled: bool = True) -> int:
    """Let torch-kernel layers keep their dequantized weights in evaluation mode: faster, at the price of the memory.

    gptqmodel's own option; the cache is not used while training. Returns the number of layers that have it.
    """
    layers = [module for module in quantized_layers(model).values() if hasattr(module, "enable_weight_cache")]
    for module in layers:
        module.enable_weight_cache(enabled)
    return len(layers)


def _without_compile(module: Any) -> None:
    """Undo the `torch.compile` wrapper that the torch kernel puts over its method; it has not run yet.

    Compiling would cost 10 to 30 s at the first forward and needs a C++ compiler.
    """
    module.__dict__.pop("dequantize_weight", None)


def _choose_kernel(kernel: str, device: torch.device, dtype: torch.dtype, settings: GptqSettings) -> str:
    from gptqmodel.utils.importer import hf_select_quant_linear_v2

    if kernel in ("auto", "auto_trainable"):
        return "gptq_torch" if device.type == "cpu" else kernel
    here = available_kernels(str(device))
    choices = ", ".join(["auto", *here])
    name = kernel.lower().removeprefix("gptq_")
    if name not in here:
        raise RecipeError(f"decoder.kernel: {kernel!r} is no GPTQ kernel for {device.type}. Choose one of: {choices}")
    if name in SYMMETRIC_KERNELS and not settings.sym:
        fits = ", ".join(["auto", *(other for other in here if other not in SYMMETRIC_KERNELS)])
        raise RecipeError(
            f"decoder.kernel: {kernel!r} computes symmetric weights only, and sym is false in {settings.file}. "
            f"Choose one of: {fits}"
        )
    try:
        hf_select_quant_linear_v2(
            bits=settings.bits,
            group_size=settings.group_size,
            desc_act=settings.desc_act,
            sym=settings.sym,
            format=settings.checkpoint_format,
            quant_method="gptq",
            dtype=None if name == "torch" else dtype,  # it declares half precision only, and computes in any
            device_map={"": str(device)},
            backend=f"gptq_{name}",
            pack=False,
        )
    except (ValueError, NotImplementedError, ImportError) as error:
        raise RecipeError(
            f"decoder.kernel: {kernel!r} cannot run this checkpoint here: {error} Choose one of: {choices}"
        ) from error
    return f"gptq_{name}"


def _replace_linears(
    model: "PreTrainedModel", dtype: torch.dtype, device: str, kernel: str, packing: dict[str, Any]
) -> Any:
    """On the meta device, by what transformers makes of a GPTQ folder's `quantization_config`."""
    bits, group_size = packing.get("bits", 4), packing.get("group_size", 128)
    import_gptqmodel()
    from transformers import GPTQConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    target = device
    if torch.device(device).type == "meta":
        device, kernel = "cpu", "auto"
    settings: dict[str, Any] = {"bits": bits, "group_size": group_size, "sym": True, "desc_act": False}
    known = GptqSettings(Path("dummy weights"), **settings, checkpoint_format=FORMATS[0])
    settings["backend"] = _choose_kernel(kernel, torch.device(device), dtype, known)
    try:
        with quietly():
            quantizer = AutoHfQuantizer.from_config(GPTQConfig(**settings, block_name_to_quantize=_blocks(model)))
    except ValueError as error:
        raise RecipeError(f"decoder: no GPTQ of {bits} bits in groups of {group_size}: {error}") from error
    with torch.device("meta"), quietly():
        quantizer.preprocess_model(model, dtype=dtype, device_map={"": target})
    return quantizer


def _blocks(model: "PreTrainedModel") -> str:
    """Name of the list of the model's transformer blocks."""
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return str(name)
    raise RecipeError(f"decoder: no list of {model.config.num_hidden_layers} blocks in a {type(model).__name__}")


def _fill(module: Any, source: RandomNumbers, std: float) -> None:
    """Random codes, scales that bring them to `std`, zero points in the middle: the format's v1, as in files."""
    bits, rows = module.bits, module.in_features
    module.qweight = source.bits(module.qweight.shape, module.qweight.dtype)
    words = middle_words(bits, 1)  # files hold the zero point less one
    groups, columns = module.qzeros.shape
    module.qzeros = words.repeat(math.ceil(columns / bits))[:columns].repeat(groups, 1).to(source.device)
    spread = math.sqrt((4**bits - 1) / 12)  # standard deviation of codes that are all equally likely
    module.scales = source.near(std / spread, module.scales.shape, module.scales.dtype)
    size = module.group_size if module.group_size > 0 else rows
    module.g_idx = (torch.arange(rows, dtype=torch.int32) // size).to(source.device)
    if module.bias is not None:
        module.bias = torch.zeros_like(module.bias, device=source.device)
    module._is_hf_initialized = True


def _finish(model: nn.Module, dtype: torch.dtype) -> None:
    """Layers of a dummy as `load_gptq_decoder` leaves those of a folder."""
    for module in filter(is_gptq_layer, model.modules()):
        _without_compile(module)
        if dtype == torch.float32:
            exact_scales(module)


def _stored_packing(folder: Path | None, published: Mapping[str, Any] | None) -> dict[str, int]:
    """Bits and group size."""
    values = published if folder is None else stated_settings(folder)
    if not values:
        return {}
    known = check_values(values, (folder or Path()) / CONFIG)
    return {"bits": known.bits, "group_size": known.group_size}


def _load(folder: Path, dtype: torch.dtype, device: str, *, kernel: str, key_mapping: dict[str, str] | None) -> Any:
    return load_gptq_decoder(folder, kernel, dtype, device, key_mapping=key_mapping, stored=kernel in CPU_KERNELS)


QUANTIZER = Quantizer(
    load=_load,
    kernel_name=lambda model: kernel_name(model),
    stored_packing=_stored_packing,
    replace_linears=_replace_linears,
    is_layer=is_gptq_layer,
    fill=_fill,
    finish=_finish,
)
