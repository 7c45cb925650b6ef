"""The window-level Q-Former and the projection that turn encoder states into decoder embeddings (SALMONN).

Module names follow the published SALMONN checkpoints; only the layers that a query passes through exist.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nota_cli.errors import RecipeError
from nota_cli.models.connectors.base import STATES_PER_SECOND, Connector
from nota_cli.recipe.schema import Connector as ConnectorSpec

LAYER_NORM_EPS = 1e-12  # BERT's


class _Attention(nn.Module):
    """Projections of one attention; `self`/`output` below are BERT's names for its two halves."""

    def __init__(self, width: int, heads: int, memory_width: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.heads = heads
        self.dropout = dropout

    def forward(self, states: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """What the states [rows, states, width] find in the memory [rows, places, memory width], where the mask is."""
        # In training alone: what a trained model says stays the same to the bit.
        if self.training and states.size(1) * 4 <= memory.size(1):
            return self._few(states, memory, mask)

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            split(self.query(states)),
            split(self.key(memory)),
            split(self.value(memory)),
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return mixed.transpose(1, 2).flatten(2)

    def _few(self, states: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """As `forward`, without keys and values of every place, whose number is that of the windows times their length.

        Each head's query is brought to the memory's width instead of each place to the head's, and so is what it found.
        """
        queries = self.query(states).unflatten(-1, (self.heads, -1))
        key, value = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.key, self.value))
        asked = torch.einsum("nqhd,hdm->nhqm", queries, key).flatten(1, 2)
        bias = torch.einsum("nqhd,hd->nhq", queries, self.key.bias.unflatten(0, (self.heads, -1))).flatten(1, 2)
        scores = (torch.bmm(asked, memory.mT) + bias.unsqueeze(-1)) / queries.size(-1) ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(1), float("-inf"))
        shares = F.dropout(scores.softmax(-1), self.dropout)
        found = torch.bmm(shares, memory).unflatten(1, (self.heads, -1))
        mixed = torch.einsum("nhqm,hdm->nqhd", found, value).flatten(2)
        total = shares.sum(-1).unflatten(1, (self.heads, -1)).transpose(1, 2).unsqueeze(-1)  # dropout changes it
        return mixed + (total * self.value.bias.unflatten(0, (self.heads, -1))).flatten(2)


class _Output(nn.Module):
    """Linear, dropout, then LayerNorm over the sum with the residual."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class _AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, memory_width: int, dropout: float) -> None:
        super().__init__()
        self.self = _Attention(width, heads, memory_width, dropout)
        self.output = _Output(width, width, dropout)

    def forward(self, states: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.output(self.self(states, memory, mask), states)


class _QFormerLayer(nn.Module):
    def __init__(self, spec: ConnectorSpec, memory_width: int) -> None:
        super().__init__()
        width = spec.hidden_size
        self.attention = _AttentionBlock(width, spec.heads, width, spec.dropout)
        self.crossattention = _AttentionBlock(width, spec.heads, memory_width, spec.dropout)
        self.intermediate_query = nn.Module()
        self.intermediate_query.dense = nn.Linear(width, spec.intermediate_size)
        self.output_query = _Output(spec.intermediate_size, width, spec.dropout)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        queries = self.attention(queries, queries)
        queries = self.crossattention(queries, memory, mask)
        intermediate: Any = self.intermediate_query
        return self.output_query(F.gelu(intermediate.dense(queries)), queries)


class _QFormer(nn.Module):
    def __init__(self, spec: ConnectorSpec, memory_width: int) -> None:
        super().__init__()
        self.bert = nn.Module()
        self.bert.embeddings = nn.Module()
        self.bert.embeddings.LayerNorm = nn.LayerNorm(spec.hidden_size, eps=LAYER_NORM_EPS)
        self.bert.encoder = nn.Module()
        self.bert.encoder.layer = nn.ModuleList(_QFormerLayer(spec, memory_width) for _ in range(spec.layers))
        self.dropout = nn.Dropout(spec.dropout)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        bert: Any = self.bert
        queries = self.dropout(bert.embeddings.LayerNorm(queries))
        for layer in bert.encoder.layer:
            queries = layer(queries, memory, mask)
        return queries


class QFormer(Connector):
    """Learned queries attend to every window, and a linear layer brings them to the decoder's width.

    Args:
        spec: sizes and window length.
        speech_width: width of the speech encoder's states.
        audio_width: width of the audio encoder's states, or None without one.
        decoder_width: width of the decoder's embeddings.

    Raises:
        RecipeError: the heads do not share the width evenly, or a window holds no state.
    """

    def __init__(self, spec: ConnectorSpec, speech_width: int, audio_width: int | None, decoder_width: int) -> None:
        super().__init__(round(STATES_PER_SECOND * spec.window_seconds), round(STATES_PER_SECOND * spec.stride_seconds))
        if spec.hidden_size % spec.heads:
            raise RecipeError(f"connector: hidden_size {spec.hidden_size} is no multiple of heads {spec.heads}")
        if not (self.window and self.stride):
            raise RecipeError(f"connector: window and stride need at least {1 / STATES_PER_SECOND} s, a state's length")
        self.ln_speech = nn.LayerNorm(speech_width)
        self.ln_audio = None if audio_width is None else nn.LayerNorm(audio_width)
        self.speech_query_tokens = nn.Parameter(torch.empty(1, spec.queries, spec.hidden_size).normal_(0.0, 0.02))
        self.speech_Qformer = _QFormer(spec, speech_width + (audio_width or 0))
        self.speech_llama_proj = nn.Linear(spec.hidden_size, decoder_width)

    def normed_speech(self, states: Tensor) -> Tensor:
        """As every connector's: through a norm of their own."""
        return self.ln_speech(states)

    def normed_audio(self, states: Tensor) -> Tensor:
        """As every connector's: through a norm of their own."""
        assert self.ln_audio is not None  # there are such states only of an audio encoder
        return self.ln_audio(states)

    def embed(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """As every connector's: one embedding a query."""
        queries = self.speech_query_tokens.expand(windows.size(0), -1, -1)
        return self.speech_llama_proj(self.speech_Qformer(queries, windows, mask))


CONNECTOR = QFormer
