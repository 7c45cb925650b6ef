"""A public model stage by stage, for measuring: processor, audio encoder, prefill, decode steps."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from nota_cli.generation.kv_cache import cache_name
from nota_cli.generation.runtimes.base import Span
from nota_cli.prompts import Query

ENCODERS = (
    *("audio_tower", "model.audio_tower", "thinker.audio_tower", "model.encoder", "encoder", "model.embed_audio"),
    *("model.language_model.audio_tower", "model.embed_tokens_extend.audio_embed", "audio_encoder"),
)
"""Where transformers' models have their audio encoder, the first that is there counts."""


class PublicRuntime:
    """Greedy decoding through the model's own forward pass (`nota_cli.generation.runtimes.base.Runtime`).

    Args:
        model: the transformers model.
        encoder: its audio encoder, whose time is told apart; None where it is not known.
        inputs: makes what the model takes of clips and queries.
    """

    name, decoding, autocast = "transformers", "its own forward pass", False

    def __init__(
        self, model: Any, encoder: nn.Module | None, inputs: Callable[[Any, list[Query]], dict[str, Any]]
    ) -> None:
        self._model, self._encoder, self._inputs = model, encoder, inputs
        self._state: dict[str, Any] = {}
        self._token = torch.empty(0)
        self._processing: Callable[[], AbstractContextManager[None]] = nullcontext

    def prompt(self, features: Any, query: Query) -> dict[str, Any]:
        """What the processor makes: features and tokens. The audio is encoded in the prefill."""
        with self._processing():
            return self._inputs(features, [query])

    @torch.inference_mode()
    def prefill(self, prompt: dict[str, Any], query: Query) -> None:
        """Encoder, prompt and the first token."""
        if self._model.config.is_encoder_decoder:
            start = self._model.generation_config.decoder_start_token_id
            first = torch.tensor([[start]], device=self._model.device)
            states = self._model.get_encoder()(**prompt)
            output = self._model(encoder_outputs=states, decoder_input_ids=first, use_cache=True)
            self._state = {"encoder_outputs": states}
        else:
            output = self._model(**prompt, use_cache=True)
            self._state = {}
        self._take(output)

    @torch.inference_mode()
    def step(self) -> None:
        """One token more."""
        if "encoder_outputs" in self._state:
            output = self._model(
                encoder_outputs=self._state["encoder_outputs"],
                decoder_input_ids=self._token,
                use_cache=True,
                **{cache_name(): self._state["cache"]},
            )
        else:
            # One clip has no padding to mask, and with a mask Qwen2.5-Omni takes all of it for this token's place.
            output = self._model(input_ids=self._token, use_cache=True, **{cache_name(): self._state["cache"]})
        self._take(output)

    def cache_bytes(self) -> int:
        """Bytes of keys and values."""
        cache = self._state.get("cache")
        caches = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
        total = 0
        for each in [each for each in caches if each is not None] or [cache]:
            for layer in getattr(each, "layers", []):
                total += sum(tensor.nbytes for tensor in (layer.keys, layer.values) if isinstance(tensor, Tensor))
        return total

    @contextmanager
    def watch(
        self, read: Callable[[], Any], on_part: Callable[[str], None] = lambda name: None
    ) -> Iterator[list[Span]]:
        """Readings before and after the processor and the audio encoder."""
        spans: list[Span] = []

        @contextmanager
        def processing() -> Iterator[None]:
            on_part("features")
            start = read()
            yield
            spans.append(("features", start, read()))
            on_part("decoder")

        self._processing = processing
        begun: list[Any] = []

        def before(*_: object) -> None:
            on_part("speech_encoder")
            begun.append(read())

        def after(*_: object) -> None:
            spans.append(("speech_encoder", begun.pop(), read()))
            on_part("decoder")

        encoder = self._encoder
        hooks = []
        if encoder is not None:
            hooks = [encoder.register_forward_pre_hook(before), encoder.register_forward_hook(after)]
        try:
            yield spans
        finally:
            self._processing = nullcontext
            for hook in hooks:
                hook.remove()

    def _take(self, output: Any) -> None:
        self._state["cache"] = getattr(output, cache_name())
        self._token = output.logits[:, -1:].argmax(-1)
