"""4-bit nf4 decoders (Dettmers et al. 2023, QLoRA) through bitsandbytes: folders of them, and on the fly."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from nota_cli.errors import CheckpointError, UsageError, listing
from nota_cli.quantization.base import Quantizer, RandomNumbers
from nota_cli.quantization.gptq_runtime import quietly
from nota_cli.weights.attention import default_attention
from nota_cli.weights.files import quantization_config
from nota_cli.weights.fit import refuse_misfits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NF4_BLOCK, NF4_NESTED_BLOCK = 64, 256  # weights that share a scale, scales that share a scale
INSTALL = 'pip install "nota-cli[nf4]"'


def load_nf4_decoder(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    attn_implementation: str | None = None,
    key_mapping: dict[str, str] | None = None,
) -> "PreTrainedModel":
    """Load a causal language model with nf4 weights; the model comes in evaluation mode.

    A folder that bitsandbytes quantized in 4 bits is loaded as it is, whatever it left out of the quantization; of any
    other one all linear layers but the output layer are quantized while loading, tensor by tensor, with double
    quantization.

    The model may be moved (`.to(device)`) but not cast: transformers refuses `.to(dtype)`, `.half()` and `.float()`.

    Args:
        folder: config.json and safetensors.
        dtype: of everything that is not quantized, and of the arithmetic, whatever the folder's config says.
        device: "cpu", "cuda", "cuda:1" ...
        attn_implementation: transformers' name; by default "eager" where the model caps attention scores (Gemma 2),
            which the fused kernels leave out, else "sdpa".
        key_mapping: patterns in the names of stored weights and what takes their place, as transformers' own.

    Raises:
        CheckpointError: no such model there, quantized in another way, or weights missing, unexpected or of another
            shape; they are named.
        UsageError: bitsandbytes is not installed.
    """
    folder = Path(folder)
    stored = _stored_quantization(folder)
    import_bitsandbytes()
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # it would tear nota's own apart
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        settings: dict[str, Any] = {}
        if stored:
            config.quantization_config = {**stored, "bnb_4bit_compute_dtype": str(dtype).removeprefix("torch.")}
        else:
            settings["quantization_config"] = nf4_settings(dtype)
        factory: Any = AutoModelForCausalLM  # whose types leave out that it may return two things
        with quietly():
            model, report = factory.from_pretrained(
                folder,
                config=config,
                trust_remote_code=False,
                dtype=dtype,
                device_map={"": device},
                attn_implementation=attn_implementation or default_attention(config),
                output_loading_info=True,
                key_mapping=key_mapping,
                ignore_mismatched_sizes=True,  # they are reported below, with the rest
                **settings,
            )
    except (OSError, ValueError, KeyError, StrictDataclassError, SafetensorError) as error:
        raise CheckpointError(f"nf4 decoder {folder}: {error}") from error
    except RuntimeError as error:  # transformers' answer to half a packed weight, without saying which
        problems = _incomplete(folder, config)
        if not problems:
            raise
        raise CheckpointError(f"nf4 decoder {folder}: weights are not complete:\n{listing(problems)}") from error
    refuse_misfits(f"nf4 decoder {folder}", config, report, _ill_packed(model))
    for parameter in model.parameters():  # transformers leaves those of a quantized folder in the file's type
        if parameter.is_floating_point() and not hasattr(parameter, "quant_state"):
            parameter.data = parameter.data.to(dtype)
    repack_weights(model, False)
    model.eval()
    return cast("PreTrainedModel", model)


def count_nf4(model: nn.Module) -> int:
    """Number of layers whose weights bitsandbytes holds in 4 bits."""
    return len(nf4_layers(model))


def nf4_layers(model: nn.Module) -> dict[str, Any]:
    """The bitsandbytes layers of `model` by name."""
    import_bitsandbytes()
    from bitsandbytes.nn.modules import Linear4bit

    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def import_bitsandbytes() -> None:
    """Import bitsandbytes quietly: on some processors it complains about an accelerator package that is not needed.

    Raises:
        UsageError: it is not installed, or does not import.
    """
    try:
        with quietly():
            import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UsageError(f"nf4 needs bitsandbytes, which does not import here: {error}. Run: {INSTALL}") from error


def nf4_settings(dtype: torch.dtype) -> Any:
    """What nf4 means here, as transformers takes it: double quantization, arithmetic in `dtype`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def repack_weights(model: nn.Module, enabled: bool = True) -> int:
    """Let bitsandbytes repack weights for processors with AVX512-BF16 when it first evaluates there, or forbid it.

    bitsandbytes does so by default; here models are loaded with it off. Repacked weights are many times faster to
    generate with, but they are multiplied in bfloat16 whatever the dtype, let no gradients through should training go
    on, and are saved with other scales than they were loaded with. Returns the number of layers that it is on for;
    it asks for shapes that are multiples of 32 and of the 64 weights of a block.
    """
    count = 0
    if enabled:
        import_bitsandbytes()
        from bitsandbytes.functional import has_avx512bf16

        enabled = bool(has_avx512bf16())
    for module in nf4_layers(model).values():
        fits = module.out_features % 32 == 0 and module.in_features % module.weight.blocksize == 0
        module.support_avx512bf16_for_cpu = enabled and fits
        count += enabled and fits
    return count


def _stored_quantization(folder: Path) -> dict[str, Any]:
    """The `quantization_config` of a folder that is quantized in 4 bits, `{}` for one that is not quantized."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"decoder {folder}: no config.json there. Name a Hugging Face folder.")
    stored = quantization_config(folder)
    if not stored:
        return {}
    method = stored.get("quant_method", "bitsandbytes")  # the first bitsandbytes folders left it out
    if method != "bitsandbytes":
        raise CheckpointError(f"decoder {folder} is quantized with {method}: set decoder.quantization accordingly.")
    if not stored.get("load_in_4bit", stored.get("_load_in_4bit")):
        raise CheckpointError(f"decoder {folder} is quantized by bitsandbytes, but not in 4 bits: name a 4-bit folder.")
    return dict(stored)


def _incomplete(folder: Path, config: Any) -> list[str]:
    """What the folder's files lack, by the names that a model of this config has."""
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    there: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            there.update(tensors.keys())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = set(model.state_dict()) - set(model.all_tied_weights_keys)
    packed = {name.split(".weight.")[0] + ".weight" for name in there if ".weight." in name}
    for name in packed:
        expected |= {f"{name}.absmax", f"{name}.quant_map"}
        if not any(f"{name}.quant_state.bitsandbytes__{kind}" in there for kind in ("nf4", "fp4")):
            expected.add(f"{name}.quant_state.bitsandbytes__nf4")
    return [f"missing: {name}" for name in sorted(expected - there)]


def _ill_packed(model: nn.Module) -> list[str]:
    """Problems of packed weights that transformers does not report, and that would be read as something else."""
    problems = []
    for name, module in nf4_layers(model).items():
        state = getattr(module.weight, "quant_state", None)
        if state is None:
            problems.append(f"not quantized, though config.json says so: {name}.weight")
            continue
        shape = (module.out_features, module.in_features)
        blocks = math.ceil(math.prod(shape) / state.blocksize)
        if tuple(state.shape) != shape or module.weight.nbytes != math.ceil(math.prod(shape) / 2):
            problems.append(f"of another shape: {name}.weight")
        elif state.absmax.numel() != blocks:
            problems.append(f"of another shape: {name}.weight.absmax")
        elif state.absmax.dtype == torch.uint8 and not state.nested:
            problems.append(f"missing: {name}.weight.nested_absmax")
        elif state.nested and state.state2.absmax.numel() != math.ceil(blocks / state.state2.blocksize):
            problems.append(f"of another shape: {name}.weight.nested_absmax")
    return problems


def _replace_linears(
    model: "PreTrainedModel", dtype: torch.dtype, device: str, kernel: str, packing: dict[str, Any]
) -> Any:
    """On the meta device, by transformers' quantizer."""
    import_bitsandbytes()
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(nf4_settings(dtype))
    with torch.device("meta"), quietly():
        quantizer.preprocess_model(model, dtype=dtype, device_map={"": device})
    return quantizer


def _is_layer(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear4bit" and isinstance(module, nn.Linear)  # peft's of that name is none


def _fill(module: Any, source: RandomNumbers, std: float) -> None:
    """Random codes and scales in bitsandbytes' nested form, the scales such that weights come out at `std`."""
    from bitsandbytes.functional import QuantState, create_dynamic_map, get_4bit_type
    from bitsandbytes.nn.modules import Params4bit

    shape = torch.Size((module.out_features, module.in_features))
    blocks = math.ceil(shape.numel() / NF4_BLOCK)
    table = get_4bit_type("nf4", device="cpu")
    scale = std / float(table.square().mean().sqrt())
    nested = QuantState(
        absmax=torch.full((math.ceil(blocks / NF4_NESTED_BLOCK),), 0.2 * scale, device=source.device),
        blocksize=NF4_NESTED_BLOCK,
        code=create_dynamic_map().to(source.device),
        dtype=torch.float32,
    )
    state = QuantState(
        absmax=source.bits(torch.Size((blocks,)), torch.uint8),
        shape=shape,
        code=table.to(source.device),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=module.compute_dtype,
        offset=torch.tensor(scale, device=source.device),
        state2=nested,
    )
    module.weight = Params4bit(
        source.bits(torch.Size((math.ceil(shape.numel() / 2), 1)), torch.uint8),
        requires_grad=False,
        quant_state=state,
        blocksize=NF4_BLOCK,
        compress_statistics=True,
        quant_type="nf4",
        quant_storage=torch.uint8,
        module=module,
        bnb_quantized=True,
    )
    module.quant_state = state
    module.weight._is_hf_initialized = True
    if module.bias is not None:
        bias = torch.zeros_like(module.bias, dtype=module.compute_dtype, device=source.device)
        module.bias = nn.Parameter(bias, requires_grad=False)
    module._is_hf_initialized = True


def _before_running(model: nn.Module, dtype: torch.dtype, device: str) -> None:
    """Many times faster on processors that multiply bfloat16."""
    if dtype == torch.bfloat16 and device == "cpu":
        repack_weights(model)


def _load(folder: Path, dtype: torch.dtype, device: str, *, kernel: str, key_mapping: dict[str, str] | None) -> Any:
    return load_nf4_decoder(folder, dtype, device, key_mapping=key_mapping)


def _finish(model: nn.Module, dtype: torch.dtype) -> None:
    repack_weights(model, False)


QUANTIZER = Quantizer(
    load=_load,
    kernel_name=lambda model: "bitsandbytes",
    stored_packing=lambda folder, published: {},
    replace_linears=_replace_linears,
    is_layer=_is_layer,
    fill=_fill,
    finish=_finish,
    before_running=_before_running,
)
