"""The language model: quantized or not, its tokenizer, its LoRA; one way in, `embed`."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from nota_cli.console import say
from nota_cli.errors import CheckpointError, RecipeError, listing
from nota_cli.files import refuse_lfs_pointer
from nota_cli.hub import local_path
from nota_cli.models.adapter import AdapterConfig
from nota_cli.models.decoders import llama_moe  # noqa: F401  (makes the family known to transformers)
from nota_cli.models.decoders.tokenizer import dummy_tokenizer, load_tokenizer, special_ids
from nota_cli.models.vocabulary import keep_tokens, kept_rows, mean_row
from nota_cli.quantization.base import quantizer
from nota_cli.recipe.quantizers import QUANTIZERS
from nota_cli.recipe.schema import Decoder as DecoderSpec
from nota_cli.recipe.schema import Lora
from nota_cli.recipe.section import LoadFormat
from nota_cli.weights.attention import default_attention
from nota_cli.weights.files import (
    INDEX,
    SINGLE,
    is_finite,
    open_safetensors,
    refuse_non_finite,
    tensor_shapes,
    weight_files,
)
from nota_cli.weights.fit import check_tied, check_tokenizer, refuse_misfits
from nota_cli.weights.keys import refuse_unknown
from nota_cli.weights.state_dicts import KEY_MAPPING, without_wrapping_modules

transformers_logging.disable_progress_bar()  # bars over loading and saving weights would tear nota's own apart

SCALED_INPUTS = {"gemma", "gemma2", "vaultgemma"}
"""Families whose first implementations multiplied all inputs, not only tokens, by sqrt(width)."""


class Decoder(nn.Module):
    """A causal language model that is fed embeddings.

    Attributes:
        model: the transformers model, or the peft model round it.
        tokenizer: its tokenizer.
        kernel: what multiplies the quantized weights: the GPTQ kernel, "bitsandbytes", or "none".
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kernel: str = "none") -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.kernel = kernel

    @property
    def base(self) -> Any:
        """The transformers model under the adapters, if there are any."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return int(self.base.config.hidden_size)

    @property
    def audio_scale(self) -> float:
        """What audio embeddings are multiplied by before they enter.

        Gemma 1 and 2 scaled whatever entered them by sqrt(width), and systems were trained on that; transformers 5
        does so inside the token embedding alone, so for them embeddings from elsewhere are scaled here. From Gemma 3
        on, and in other families, tokens alone were ever scaled (Google's own image embeddings enter as they are).
        """
        if self.base.config.model_type not in SCALED_INPUTS:
            return 1.0
        return float(self.base.get_input_embeddings().embed_scale)

    @property
    def end_ids(self) -> list[int]:
        """What its publisher ends an answer at; chat models have more such tokens than their tokenizer's one."""
        ids = self.base.generation_config.eos_token_id
        return [ids] if isinstance(ids, int) else list(ids or [])

    def token_ids(self, text: str) -> list[int]:
        """Ids of `text`, no special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids of any shape to embeddings, scaled as the decoder expects them."""
        return self.base.get_input_embeddings()(ids)

    def add_lora(self, spec: Lora, own: AdapterConfig | None = None) -> None:
        """Put fresh adapters on the linear layers that the recipe names, or that an adapter to be loaded has.

        Args:
            spec: the recipe's section; of it the dropout alone counts where `own` is given.
            own: the config of the adapter whose weights come next.

        Raises:
            RecipeError: the decoder has no such layers.
            CheckpointError: the same of an adapter's own config.
        """
        from nota_cli.quantization.gptq_runtime import quietly, silence_gptqmodel

        silence_gptqmodel()  # peft imports it, quantized decoder or not
        with quietly():
            from peft import LoraConfig, get_peft_model

        given: dict[str, Any] = {"r": spec.rank, "lora_alpha": spec.alpha, "target_modules": list(spec.targets)}
        given |= {} if own is None else own.for_peft()
        try:
            with quietly():
                config = LoraConfig(**given, lora_dropout=spec.dropout, task_type="CAUSAL_LM")
                self.model = get_peft_model(self.model, config)
        except (ValueError, TypeError, NotImplementedError) as error:
            if own is not None:
                raise CheckpointError(f"{own.file}: PEFT cannot make this adapter here: {error}") from error
            raise RecipeError(f"lora.targets: {error}") from error


def load_decoder(
    spec: DecoderSpec, device: str = "cpu", *, trainable: bool = False, load_format: LoadFormat = "auto"
) -> Decoder:
    """The decoder that a recipe names: from a folder or hub id, or with random weights of the given shape.

    Args:
        spec: the recipe's section; a `kernel` of `weight_only.CPU_KERNELS` leaves GPTQ layers as stored, and the caller
            repacks them.
        device: where to put it; "meta" (with dummy weights) builds the shapes alone.
        trainable: makes `kernel: auto` choose among the GPTQ kernels that gradients pass through.
        load_format: "dummy" takes random weights of the true size and downloads nothing, quantized as the recipe says.

    Raises:
        CheckpointError: the folder is not there or does not hold what it should; missing and unexpected keys are named.
        RecipeError: no model can be made from the recipe's `config`.
    """
    kernel = "auto_trainable" if trainable and spec.kernel == "auto" else spec.kernel
    if load_format == "dummy":
        decoder = _dummy(spec, device, kernel)
    elif spec.config is not None:
        tokenizer = load_tokenizer(spec)
        config = _from_values({"vocab_size": len(tokenizer), **special_ids(tokenizer), **spec.config})
        model = AutoModelForCausalLM.from_config(
            config, dtype=_dtype(spec), attn_implementation=default_attention(config)
        )
        decoder = Decoder(model.to(device), tokenizer)
    else:
        decoder = _pretrained(spec, device, kernel)
    if spec.quantization != "none" and not trainable:
        quantizer(spec.quantization).before_running(decoder.model, _dtype(spec), device)
    if spec.pad_token is not None:
        _add_pad_row(decoder, spec.pad_token)
    head = decoder.model.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
    return decoder


def _contiguous(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A prefill's last states are a slice, and for that torch copies a bfloat16 weight once a row on the CPU (2.13)."""
    states, *rest = inputs
    if states.device.type == "cpu" and states.dtype == torch.bfloat16:
        states = states.contiguous()
    return (states, *rest)


def _pretrained(spec: DecoderSpec, device: str, kernel: str) -> Decoder:
    """The decoder from its folder, its weights held against its config, its tokenizer, and finite."""
    folder = local_path(spec.path or "")
    names = _stored_names(folder)
    tokenizer = load_tokenizer(spec)
    decoder = _loaded(spec, folder, tokenizer, device, kernel, _without_prefixes(names, folder))
    check_tied(decoder.model, folder)
    keep_tokens(decoder.model, local_path(spec.tokenizer or folder, kind="tokenizer"))
    rows = decoder.model.get_input_embeddings().weight.size(0)
    check_tokenizer(tokenizer, rows, folder, Path(spec.tokenizer or folder))
    broken = [name for name, tensor in decoder.model.state_dict().items() if not is_finite(tensor)]
    if broken:
        for file in weight_files(folder) if names else []:  # by file, and by the names in it
            with open_safetensors(file) as tensors:
                refuse_non_finite(file, ((name, tensors.get_tensor(name)) for name in tensors.keys()))  # noqa: SIM118
        raise CheckpointError(
            f"decoder {folder}: weights that are NaN or infinite in {spec.dtype}. If they are finite in the file, set "
            f"decoder.dtype to bfloat16 or float32; else take another checkpoint.\n{listing(broken)}"
        )
    return decoder


def _stored_names(folder: Path) -> list[str]:
    """Names of the weights in a decoder folder; empty where they are no safetensors.

    Raises:
        CheckpointError: a file is a Git LFS pointer, a shard is missing or disagrees with the index.
    """
    for path in (*map(folder.joinpath, ("config.json", "generation_config.json")), *sorted(folder.glob("*.bin"))):
        if path.suffix == ".json" or not (folder / SINGLE).is_file():
            refuse_lfs_pointer(path, error=CheckpointError)
    if not any((folder / name).is_file() for name in (SINGLE, INDEX)):
        return []
    return [name for file in weight_files(folder) for name in tensor_shapes(file)]


def _without_prefixes(names: Iterable[str], folder: Path) -> dict[str, str] | None:
    """transformers' `key_mapping` for names with the prefixes of DDP or `torch.compile`; None for plain ones."""
    wrapped = [name for name in names if without_wrapping_modules(name) != name]
    if not wrapped:
        return None
    prefix = wrapped[0].removesuffix(without_wrapping_modules(wrapped[0])) or wrapped[0]
    say(f"decoder {folder}: {prefix} stripped from the names of its weights")
    return KEY_MAPPING


def _loaded(
    spec: DecoderSpec,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    device: str,
    kernel: str,
    key_mapping: dict[str, str] | None,
) -> Decoder:
    if spec.quantization != "none":
        entry = quantizer(spec.quantization)
        model = entry.load(folder, _dtype(spec), device, kernel=kernel, key_mapping=key_mapping)
        return Decoder(model, tokenizer, entry.kernel_name(model))
    from nota_cli.quantization.gptq_format import quantization_method

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if method := quantization_method(folder):
            raise CheckpointError(
                f"decoder {folder} is quantized; set decoder.quantization to {' or '.join(QUANTIZERS)}, as its "
                f"config.json says (quant_method is {method!r} there)"
            )
        factory: Any = AutoModelForCausalLM  # whose types leave out that it may return two things
        model, report = factory.from_pretrained(
            folder,
            trust_remote_code=False,  # None would ask at the terminal whether to run the folder's code
            dtype=_dtype(spec),
            attn_implementation=default_attention(config),
            output_loading_info=True,
            key_mapping=key_mapping,
            ignore_mismatched_sizes=True,  # they are reported below, with the rest
        )
    except (OSError, ValueError, StrictDataclassError, SafetensorError) as error:
        raise CheckpointError(f"decoder {folder}: {error}") from error
    refuse_misfits(f"decoder {folder}", config, report)
    return Decoder(model.to(device), tokenizer)


def _dummy(spec: DecoderSpec, device: str, kernel: str) -> Decoder:
    from nota_cli.models.architectures import architecture
    from nota_cli.quantization.dummy import dummy_decoder

    entry = None if spec.quantization == "none" else quantizer(spec.quantization)
    values = dict(spec.config) if spec.config is not None else dict(architecture(spec.path or "", "decoder")["config"])
    published = values.pop("quantization_config", None)
    folder = Path(spec.path) if spec.path and Path(spec.path).is_dir() else None
    packing = {} if entry is None else entry.stored_packing(folder, published)
    there = next(
        (path for path in (spec.tokenizer, spec.path) if path and (Path(path) / "tokenizer.json").is_file()), None
    )
    if there is None and "vocab_size" not in values:
        raise RecipeError(f"decoder: its size needs vocab_size or the tokenizer, and there is no {spec.tokenizer}")
    tokenizer = load_tokenizer(spec) if there else dummy_tokenizer(int(values["vocab_size"]))
    if spec.config is not None:
        values = {"vocab_size": len(tokenizer), **special_ids(tokenizer), **values}
    elif there is not None and (kept := kept_rows(Path(there), int(values["vocab_size"]))) is not None:
        values |= {"vocab_size": len(kept), **special_ids(tokenizer)}
    config = _from_values(values, known_only=spec.config is not None)
    model = dummy_decoder(config, spec.quantization, _dtype(spec), device, kernel=kernel, **packing)
    return Decoder(model, tokenizer, "none" if entry is None else entry.kernel_name(model))


def _from_values(values: Mapping[str, Any], known_only: bool = True) -> PreTrainedConfig:
    """A transformers config; what a recipe gives must be `known_only`, published files hold all sorts of keys."""
    try:
        config = AutoConfig.for_model(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise RecipeError(f"decoder.config: {error}") from error
    if known_only:
        refuse_unknown("decoder.config", values, config.__class__().to_dict())
    return config


def _add_pad_row(decoder: Decoder, token: str) -> None:
    """Give tokenizer and embedding a token more, as the teams' code did; a row for it changes every loss a little.

    transformers draws new rows round the mean of the old ones; this one is the mean itself.
    """
    model, tokenizer = decoder.model, decoder.tokenizer
    tokenizer.add_special_tokens({"pad_token": token})
    before = model.get_input_embeddings().weight.size(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None and len(tokenizer) > before:
                layer.weight[before:] = mean_row(layer.weight[:before])


def _dtype(spec: DecoderSpec) -> torch.dtype:
    return getattr(torch, spec.dtype)
