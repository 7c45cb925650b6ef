"""The decoder's way in: what audio embeddings are multiplied by, family by family."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from nota_cli.model.decoder import Decoder

SIZES = {"vocab_size": 80, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
HEADS = {"head_dim": 16, "query_pre_attn_scalar": 16}


@pytest.mark.parametrize(
    ("family", "extra", "scale", "token_scale"),
    [
        ("gemma", {"head_dim": 16}, 8.0, 8.0),
        ("gemma2", HEADS, 8.0, 8.0),
        ("gemma3_text", HEADS, 1.0, 8.0),
        ("llama", {}, 1.0, 1.0),
        ("qwen2", {}, 1.0, 1.0),
    ],
)
def test_audio_is_scaled_as_the_familys_first_implementation_did(
    family: str, extra: dict[str, int], scale: float, token_scale: float
) -> None:
    """Gemma 1 and 2 multiplied every input by sqrt(width), Gemma 3 tokens alone; the rest multiply nothing."""
    decoder = Decoder(
        AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **extra)), SimpleNamespace()
    )
    assert decoder.audio_scale == scale
    ids = torch.tensor([5, 7])
    expected = decoder.base.get_input_embeddings().weight[ids] * token_scale
    torch.testing.assert_close(decoder.embed(ids), expected)
