"""Small decoders of every family, prompts for them, and what a model hears."""

from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio.clip import load_audio
from nota_cli.features.batch import Features, extract
from nota_cli.models.decoders.decoder import Decoder
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.prompts import Query
from nota_cli.recipe.schema import Lora
from nota_cli.weights.attention import default_attention

SIZES = {"vocab_size": 80, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
FAMILIES = {
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16},
    # A wide and a narrow layer, each with a rotary base of its own; the last is the global one.
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 128, "num_hidden_layers": 3}
    | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "phi": {"pad_token_id": 0},
    "phi3": {"pad_token_id": 0},
    "smollm3": {"pad_token_id": 0, "no_rope_layer_interval": 2},
    "llama_moe": {"num_experts": 4, "num_selects": 2, "size_experts": [[32] * 4] * 2},
}
ADAPTED = {"phi": ["q_proj", "v_proj", "dense"], "phi3": ["qkv_proj", "o_proj"]}
"""Layers that adapters are put on, where their names are not Llama's."""
HEAD = [1, 5, 6, 7, 8]
ENDS = (2, 11, 12, 13, 14, 15)


def make_decoder(family: str, adapted: bool = False, **changes: object) -> Decoder:
    torch.manual_seed(2)
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=default_attention(config))
    decoder = Decoder(model, SimpleNamespace())
    if adapted:
        decoder.add_lora(Lora(rank=4, alpha=16, targets=ADAPTED.get(family, ["q_proj", "v_proj", "o_proj"])))
        with torch.no_grad():
            for name, parameter in decoder.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.2)
    return decoder.eval()


def make_prompts(decoder: Decoder, lengths: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Left-padded prompts that begin with `HEAD`, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.zeros(len(lengths), max(lengths), 64)
    mask = torch.zeros(embeds.shape[:2], dtype=torch.long)
    for row, length in enumerate(lengths):
        head = decoder.embed(torch.tensor(HEAD)).detach()
        embeds[row, -length:] = torch.cat([head, 0.5 * torch.randn(length - len(HEAD), 64, generator=generator)])
        mask[row, -length:] = 1
    dtype = next(decoder.parameters()).dtype
    return embeds.to(dtype), mask


def listen(model: Salmonn, clips: Path) -> list[tuple[Features, list[Query]]]:
    """Batches of five clips, of one, and of two."""
    rows = read_annotation(clips / "all.json")
    waves, queries = [load_audio(clips / row.path) for row in rows], [Query(row.task) for row in rows]
    bins = model.speech_encoder.config.num_mel_bins
    return [(extract(waves[part], bins, pad="clip"), queries[part]) for part in (slice(5), slice(1), slice(1, 3))]
