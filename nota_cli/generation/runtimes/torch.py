"""The torch runtime: greedy decoding of one clip as `nota infer` does it with one beam."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nota_cli.generation.kv_cache import cache_name
from nota_cli.generation.options import DecodingOptions
from nota_cli.generation.runtimes.base import Span
from nota_cli.generation.static_decoder import StaticCacheDecoder
from nota_cli.prompts import Query

PARTS = ("speech_encoder", "audio_encoder", "connector")


class TorchModel(Protocol):
    """What is run: a torch module of encoders, connector and decoder.

    Attributes:
        recipe: says by `generate.decoding` which loop decodes.
        decoder: with the transformers model as `model`.
    """

    recipe: Any
    decoder: Any

    def prompt_embeds(self, features: Any, queries: list[Query]) -> tuple[Tensor, Tensor]: ...  # noqa: D102

    def prompt_heads(self, queries: list[Query]) -> Sequence[list[int]]: ...  # noqa: D102

    def decoding_options(self, settings: Any) -> DecodingOptions: ...  # noqa: D102


class TorchRuntime:
    """A torch model, by the token (`nota_cli.generation.runtimes.base.Runtime`).

    Args:
        model: in evaluation mode.
        tokens: as many as may be generated.

    Attributes:
        autocast: whether the encoders run in float16 under autocast.
    """

    name = "torch"

    def __init__(self, model: TorchModel, tokens: int) -> None:
        self._model, self._decoder = model, model.decoder.model
        self._fixed = StaticCacheDecoder(model.decoder) if model.recipe.generate.decoding == "auto" else None
        self._settings = model.recipe.generate.model_copy(update={"max_new_tokens": tokens})
        self._mask = self._token = torch.empty(0)
        self._cache: Any = None
        self.autocast = False

    @property
    def decoding(self) -> str:
        """How it decodes, in words."""
        return "plain" if self._fixed is None else self._fixed.kind

    @torch.inference_mode()
    def prompt(self, features: Any, query: Query) -> tuple[Tensor, Tensor]:
        """Embeddings `[1, length, width]` and their mask `[1, length]`."""
        with torch.autocast("cuda", torch.float16, enabled=self.autocast):
            return self._model.prompt_embeds(features, [query])

    @torch.inference_mode()
    def prefill(self, prompt: tuple[Tensor, Tensor], query: Query) -> None:
        """Prefill, and the first token."""
        embeds, mask = prompt
        if self._fixed is not None and not self._fixed.supports(mask.size(1) + self._settings.max_new_tokens):
            self._fixed = None
        if self._fixed is not None:
            options = self._model.decoding_options(self._settings)
            self._fixed.begin(embeds, mask, options, self._model.prompt_heads([query]))
            return
        output = self._decoder(inputs_embeds=embeds, attention_mask=mask, use_cache=True, logits_to_keep=1)
        self._mask, self._cache = mask, getattr(output, cache_name())
        self._token = output.logits[:, -1:].argmax(-1)

    @torch.inference_mode()
    def step(self) -> None:
        """One token more."""
        if self._fixed is not None:
            return self._fixed.step()
        self._mask = torch.cat([self._mask, self._mask.new_ones(1, 1)], dim=1)
        output = self._decoder(
            input_ids=self._token, attention_mask=self._mask, use_cache=True, **{cache_name(): self._cache}
        )
        self._cache = getattr(output, cache_name())
        self._token = output.logits[:, -1:].argmax(-1)

    def cache_bytes(self) -> int:
        """Bytes of keys and values."""
        if self._fixed is not None:
            return self._fixed.cache_bytes()
        pairs = [(layer.keys, layer.values) for layer in getattr(self._cache, "layers", [])]
        return sum(tensor.nbytes for pair in pairs for tensor in pair if tensor is not None)

    @contextmanager
    def watch(
        self, read: Callable[[], Any], on_part: Callable[[str], None] = lambda name: None
    ) -> Iterator[list[Span]]:
        """Readings before and after each encoder and the connector."""
        spans: list[Span] = []
        begun: list[Any] = []
        hooks = []

        def before(name: str) -> Callable[..., None]:
            def hook(*_: object) -> None:
                on_part(name)
                begun.append(read())

            return hook

        def after(name: str) -> Callable[..., None]:
            def hook(*_: object) -> None:
                spans.append((name, begun.pop(), read()))
                on_part("decoder")

            return hook

        for name in PARTS:
            part: nn.Module | None = getattr(self._model, name, None)
            if part is not None:
                hooks += [part.register_forward_pre_hook(before(name)), part.register_forward_hook(after(name))]
        try:
            yield spans
        finally:
            for hook in hooks:
                hook.remove()
