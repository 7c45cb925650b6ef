"""The window-level Q-Former and the projection that turn encoder states into decoder embeddings (SALMONN).

Module names follow the published SALMONN checkpoints; only the layers that a query passes through exist.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nota_cli.errors import RecipeError
from nota_cli.recipe.schema import Connector as ConnectorSpec

STATES_PER_SECOND = 50  # Whisper: a state for two frames of 10 ms
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


class Connector(nn.Module):
    """Both encoders' states, window by window, to embeddings of the decoder's width.

    Args:
        spec: sizes and window length.
        speech_width: width of the speech encoder's states.
        audio_width: width of the audio encoder's states, or None without one.
        decoder_width: width of the decoder's embeddings.

    Raises:
        RecipeError: the heads do not share the width evenly, or a window holds no state.
    """

    def __init__(self, spec: ConnectorSpec, speech_width: int, audio_width: int | None, decoder_width: int) -> None:
        super().__init__()
        self.window = round(STATES_PER_SECOND * spec.window_seconds)
        self.stride = round(STATES_PER_SECOND * spec.stride_seconds)
        if spec.hidden_size % spec.heads:
            raise RecipeError(f"connector: hidden_size {spec.hidden_size} is no multiple of heads {spec.heads}")
        if not (self.window and self.stride):
            raise RecipeError(f"connector: window and stride need at least {1 / STATES_PER_SECOND} s, a state's length")
        self.ln_speech = nn.LayerNorm(speech_width)
        self.ln_audio = None if audio_width is None else nn.LayerNorm(audio_width)
        self.speech_query_tokens = nn.Parameter(torch.empty(1, spec.queries, spec.hidden_size).normal_(0.0, 0.02))
        self.speech_Qformer = _QFormer(spec, speech_width + (audio_width or 0))
        self.speech_llama_proj = nn.Linear(spec.hidden_size, decoder_width)

    def forward(
        self,
        speech: Tensor,
        speech_mask: Tensor | None,
        audio: Tensor | None = None,
        audio_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Join the streams and query every window.

        Args:
            speech: [batch, speech states, speech width].
            speech_mask: [batch, speech states], True at real states. None means that every state counts, padding of
                the clip to 30 s included, as in the published systems: windows that do not fill up are dropped then.
            audio: [batch, audio states, audio width] or None.
            audio_mask: [batch, audio states], True at real states.

        Returns:
            Embeddings [batch, windows x queries, decoder width] and their mask (True at real ones).
        """
        dtype = self.speech_query_tokens.dtype  # the encoders may have another
        states = self.ln_speech(speech.to(dtype))
        real = speech_mask
        if audio is not None and self.ln_audio is not None:
            second = self.ln_audio(audio.to(dtype))
            if audio_mask is not None:
                second = second * audio_mask.unsqueeze(-1)
            length = max(states.size(1), second.size(1))
            if speech_mask is not None:
                states = states * speech_mask.unsqueeze(-1)
                real = _extend(speech_mask, length)
                real = real | (_extend(audio_mask, length) if audio_mask is not None else second.size(1) == length)
            states = torch.cat([_extend(states, length), _extend(second, length)], dim=-1)
        if real is not None:
            # A clip at its own length keeps its last, part-filled window; what is not real there is masked.
            full = self.filled(states.size(1))
            states, real = _extend(states, full), _extend(real, full)
        return self.query_windows(states, real)

    def filled(self, length: int) -> int:
        """States that fill the last window of a clip of `length` states."""
        return (-(-length // self.stride) - 1) * self.stride + self.window

    def query_windows(self, states: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Query every window of joined states.

        Args:
            states: [batch, states, speech width + audio width], normed.
            real: [batch, states], True at real states; None if all are.

        Returns:
            As `forward`.
        """
        memory = self._windows(states)
        batch, windows = memory.shape[:2]
        flat_mask = None
        alive = torch.ones(batch, windows, dtype=torch.bool, device=states.device)
        if real is not None:
            window_mask = self._windows(real)
            alive = window_mask.any(-1)
            # An empty window is dropped below; letting it see its zeros keeps its softmax finite.
            flat_mask = (window_mask | ~alive.unsqueeze(-1)).flatten(0, 1)
        queries = self.speech_query_tokens.expand(batch * windows, -1, -1)
        queries = self.speech_Qformer(queries, memory.flatten(0, 1), flat_mask)
        embeds = self.speech_llama_proj(queries).reshape(batch, windows * queries.size(1), -1)
        return embeds, alive.repeat_interleave(queries.size(1), dim=1)

    def _windows(self, states: Tensor) -> Tensor:
        """[batch, states, ...] to [batch, windows, window, ...]."""
        starts = torch.arange((states.size(1) - self.window) // self.stride + 1, device=states.device) * self.stride
        return states[:, starts[:, None] + torch.arange(self.window, device=states.device)]


def _extend(x: Tensor, length: int) -> Tensor:
    """Append zeros (False) along dimension 1 up to `length`."""
    if x.size(1) >= length:
        return x
    return torch.cat([x, x.new_zeros(x.size(0), length - x.size(1), *x.shape[2:])], dim=1)
