"""The language model: quantised or not, its tokenizer, its LoRA; one way in, `embed`."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from nota_cli.errors import CheckpointError, RecipeError, listing
from nota_cli.recipe.schema import Decoder as DecoderSpec
from nota_cli.recipe.schema import Lora

transformers_logging.disable_progress_bar()  # bars over loading and saving weights would tear nota's own apart


class Decoder(nn.Module):
    """A causal language model that is fed embeddings.

    Attributes:
        model: the transformers model, or the peft model round it.
        tokenizer: its tokenizer.
        kernel: the GPTQ kernel in use, or "none".
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kernel: str = "none") -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.kernel = kernel

    @property
    def base(self) -> PreTrainedModel:
        """The transformers model under the adapters, if there are any."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return int(self.base.config.hidden_size)

    @property
    def audio_scale(self) -> float:
        """What audio embeddings are multiplied by before they enter.

        Gemma scales whatever enters it by sqrt(width); transformers 5 does so inside the token embedding alone, so
        embeddings that come from elsewhere are scaled here.
        """
        scale = getattr(self.base.get_input_embeddings(), "embed_scale", 1.0)
        return float(scale)

    def token_ids(self, text: str) -> list[int]:
        """Ids of `text`, no special tokens added."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids of any shape to embeddings, scaled as the decoder expects them."""
        return self.base.get_input_embeddings()(ids)

    def add_lora(self, spec: Lora) -> None:
        """Put fresh adapters on the linear layers that the recipe names.

        Raises:
            RecipeError: the decoder has no such layers.
        """
        from nota_cli.compress.gptq import silence_gptqmodel

        silence_gptqmodel()  # peft imports it, quantised decoder or not
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=list(spec.targets),
            task_type="CAUSAL_LM",
        )
        try:
            self.model = get_peft_model(self.model, config)
        except ValueError as error:
            raise RecipeError(f"lora.targets: {error}") from error


def load_decoder(spec: DecoderSpec, device: str = "cpu", *, trainable: bool = False) -> Decoder:
    """The decoder that a recipe names: from a folder or hub id, or with random weights of the given shape.

    `trainable` makes `kernel: auto` choose among the GPTQ kernels that gradients pass through.

    Raises:
        CheckpointError: the folder is not there or does not hold what it should; missing and unexpected keys are named.
        RecipeError: no model can be made from the recipe's `config`.
    """
    dtype = getattr(torch, spec.dtype)
    tokenizer = _load_tokenizer(spec.tokenizer or spec.path)
    if spec.config is not None:
        values = {"vocab_size": len(tokenizer), **_special_ids(tokenizer), **spec.config}
        try:
            config = AutoConfig.for_model(**values)
            refuse_unknown("decoder.config", values, config.__class__().to_dict())
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=_attention(config))
        except (ValueError, TypeError) as error:
            raise RecipeError(f"decoder.config: {error}") from error
        return Decoder(model, tokenizer)
    if spec.quantisation == "gptq":
        from nota_cli.compress.gptq import kernel_name, load_gptq_decoder

        kernel = "auto_trainable" if trainable and spec.kernel == "auto" else spec.kernel
        model = load_gptq_decoder(Path(spec.path), kernel, dtype, device)
        return Decoder(model, tokenizer, kernel_name(model))
    try:
        config = AutoConfig.from_pretrained(spec.path)
        model, report = AutoModelForCausalLM.from_pretrained(
            spec.path,
            dtype=dtype,
            attn_implementation=_attention(config),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below, with the rest
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"decoder {spec.path}: {error}") from error
    problems = [f"missing: {name}" for name in sorted(report["missing_keys"])]
    problems += [f"unexpected: {name}" for name in sorted(report["unexpected_keys"])]
    problems += [f"of another shape: {key[0]}" for key in sorted(report["mismatched_keys"])]
    if problems:
        raise CheckpointError(f"decoder {spec.path}: the weights do not fit its config.json:\n{listing(problems)}")
    return Decoder(model, tokenizer)


def refuse_unknown(where: str, values: Mapping[str, object], known: Mapping[str, object]) -> None:
    """transformers takes any key into a config without a word; a typo in a recipe shall not vanish there.

    Raises:
        RecipeError: `values` has keys that `known` has not; every one is named.
    """
    unknown = [key for key in values if key not in known]
    if unknown:
        raise RecipeError(f"{where}: unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}")


def _attention(config: object) -> str:
    """Gemma 2 caps its attention scores, which the fused kernels leave out without a word."""
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _load_tokenizer(path: str | None) -> PreTrainedTokenizerBase:
    if path is not None and Path(path).is_absolute() and not Path(path).is_dir():
        raise CheckpointError(f"decoder: there is no folder {path}; put the weights there or --set decoder.path=FOLDER")
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"tokenizer {path}: {error}") from error
