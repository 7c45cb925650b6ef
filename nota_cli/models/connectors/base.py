"""What connectors share: both encoders' states joined and cut into windows, each of which becomes embeddings."""

from collections.abc import Sequence
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nota_cli.recipe.connectors import CONNECTORS, SUMMARY_WIDTH
from nota_cli.recipe.schema import Connector as ConnectorSpec

STATES_PER_SECOND = 50  # Whisper: a state for two frames of 10 ms


class Summary(nn.Module):
    """A few embeddings of a clip as a whole: mean and deviation of its states over time, normed, and two layers.

    What a sound is shows in these better than in single windows where there is little to train on (docs/small.md).

    Args:
        width: of the states.
        decoder_width: of the embeddings.
        count: embeddings of a clip.
    """

    def __init__(self, width: int, decoder_width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.mean_norm, self.deviation_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.2)
        self.reduction = nn.Linear(2 * width, SUMMARY_WIDTH)
        self.projection = nn.Linear(SUMMARY_WIDTH, count * decoder_width)

    def forward(self, streams: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """The embeddings `[batch, count, decoder width]`.

        Args:
            streams: of each encoder the states `[batch, states, width]` and which are real `[batch, states]`, at
                least one of a clip; None if all are.
        """
        moments = [_moments(states, real) for states, real in streams]
        mean, deviation = (torch.cat(parts, dim=-1) for parts in zip(*moments, strict=True))
        both = torch.cat([self.mean_norm(mean), self.deviation_norm(deviation)], dim=-1)
        embeds: Tensor = self.projection(F.gelu(self.reduction(self.dropout(both)))).unflatten(-1, (self.count, -1))
        return embeds


def _moments(states: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over time `[batch, width]` of real states."""
    weights = states.new_ones(states.shape[:2]) if real is None else real.to(states.dtype)
    weights = weights.unsqueeze(-1)
    count = weights.sum(1)
    mean = (states * weights).sum(1) / count
    variance = ((states - mean.unsqueeze(1)).square() * weights).sum(1) / count
    return mean, (variance + 1e-6).sqrt()


class Connector(nn.Module):
    """Both encoders' states, window by window, to embeddings of the decoder's width.

    A kind of connector is a subclass with `embed`, made with the four arguments of `build_connector`, and named
    `CONNECTOR` in its module.

    Args:
        window: states of a window.
        stride: states from the beginning of one window to that of the next.

    Attributes:
        summary: makes the first embeddings of each clip, if there is one.
    """

    keeps_rest = False
    """Whether states that do not fill a last window get one, filled up with zeros, where every state counts."""

    def __init__(self, window: int, stride: int) -> None:
        super().__init__()
        self.window, self.stride = window, stride
        self.summary: Summary | None = None

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return next(self.parameters()).device

    def normed_speech(self, states: Tensor) -> Tensor:
        """The speech encoder's states `[batch, states, width]` as they are joined with the other ones."""
        return states

    def normed_audio(self, states: Tensor) -> Tensor:
        """The audio encoder's states `[batch, states, width]` as they are joined with the other ones."""
        return states

    def embed(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Windows of joined states to embeddings.

        Args:
            windows: `[windows, window, speech width + audio width]`, zeros at places that are not real.
            mask: `[windows, window]`, True at real states, at least one of them in a window; None if all are.

        Returns:
            `[windows, embeddings of a window, decoder width]`.
        """
        raise NotImplementedError

    def forward(
        self,
        speech: Tensor,
        speech_mask: Tensor | None,
        audio: Tensor | None = None,
        audio_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Join the streams and embed every window.

        Args:
            speech: [batch, speech states, speech width].
            speech_mask: [batch, speech states], True at real states. None means that every state counts, padding of
                the clip to 30 s included, as in the published systems: windows that do not fill up are dropped then,
                unless the connector `keeps_rest`.
            audio: [batch, audio states, audio width] or None.
            audio_mask: [batch, audio states], True at real states.

        Returns:
            Embeddings [batch, windows x embeddings of a window, decoder width] and their mask (True at real ones);
            before these the embeddings of the summary, if there is one.
        """
        dtype = next(self.parameters()).dtype  # the encoders may have another
        streams = [(speech.to(dtype), speech_mask), *([] if audio is None else [(audio.to(dtype), audio_mask)])]
        states = self.normed_speech(speech.to(dtype))
        real = speech_mask
        if speech_mask is not None:
            states = states * speech_mask.unsqueeze(-1)
        if audio is not None:
            second = self.normed_audio(audio.to(dtype))
            if audio_mask is not None:
                second = second * audio_mask.unsqueeze(-1)
            length = max(states.size(1), second.size(1))
            if speech_mask is not None:
                real = extend(speech_mask, length)
                real = real | (extend(audio_mask, length) if audio_mask is not None else second.size(1) == length)
            states = torch.cat([extend(states, length), extend(second, length)], dim=-1)
        if real is not None or self.keeps_rest:
            # A clip at its own length keeps its last, part-filled window; what is not real there is masked.
            full = self.filled(states.size(1))
            states = extend(states, full)
            real = None if real is None else extend(real, full)
        embeds, alive = self.query_windows(states, real)
        if self.summary is None:
            return embeds, alive
        summed = self.summary(streams)
        return torch.cat([summed, embeds], dim=1), torch.cat([alive.new_ones(summed.shape[:2]), alive], dim=1)

    def filled(self, length: int) -> int:
        """States that fill the last window of a clip of `length` states."""
        return (-(-length // self.stride) - 1) * self.stride + self.window

    def query_windows(self, states: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embed every window of joined states.

        Args:
            states: [batch, states, speech width + audio width], normed.
            real: [batch, states], True at real states; None if all are.

        Returns:
            As `forward`.
        """
        windows = self._windows(states)
        batch, count = windows.shape[:2]
        flat_mask = None
        alive = torch.ones(batch, count, dtype=torch.bool, device=states.device)
        if real is not None:
            window_mask = self._windows(real)
            alive = window_mask.any(-1)
            # An empty window is dropped below; letting it see its zeros keeps its softmax finite.
            flat_mask = (window_mask | ~alive.unsqueeze(-1)).flatten(0, 1)
        embeds = self.embed(windows.flatten(0, 1), flat_mask)
        tokens = embeds.size(1)
        return embeds.reshape(batch, count * tokens, -1), alive.repeat_interleave(tokens, dim=1)

    def _windows(self, states: Tensor) -> Tensor:
        """[batch, states, ...] to [batch, windows, window, ...]."""
        starts = torch.arange((states.size(1) - self.window) // self.stride + 1, device=states.device) * self.stride
        return states[:, starts[:, None] + torch.arange(self.window, device=states.device)]


def build_connector(spec: ConnectorSpec, speech_width: int, audio_width: int | None, decoder_width: int) -> Connector:
    """The connector that a recipe asks for, with random weights.

    Args:
        spec: the recipe's section; its `kind` names the entry (`nota_cli.recipe.connectors`).
        speech_width: width of the speech encoder's states.
        audio_width: width of the audio encoder's states, or None without one.
        decoder_width: width of the decoder's embeddings.

    Raises:
        RecipeError: the section's values do not go together.
    """
    connector: Connector = import_module(CONNECTORS[spec.kind].module).CONNECTOR(
        spec, speech_width, audio_width, decoder_width
    )
    if spec.summary:
        connector.summary = Summary(speech_width + (audio_width or 0), decoder_width, spec.summary)
    return connector


def extend(x: Tensor, length: int) -> Tensor:
    """Append zeros (False) along dimension 1 up to `length`."""
    if x.size(1) >= length:
        return x
    return torch.cat([x, x.new_zeros(x.size(0), length - x.size(1), *x.shape[2:])], dim=1)
