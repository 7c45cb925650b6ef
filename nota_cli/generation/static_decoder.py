"""Decoding token by token, little to do between two: a cache that stays in place, CUDA graphs, a kept prefix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nota_cli.console import warn
from nota_cli.generation.kv_cache import FixedCache, cache_name
from nota_cli.generation.options import DecodingOptions
from nota_cli.generation.sampling import perturb

FAMILIES = {"gemma2", "gemma3_text", "llama", "llama_moe", "mistral", "phi", "phi3", "qwen2", "qwen3", "smollm3"}
"""Decoders whose layers are known to need no more than the cache and the mask here; others go the plain way."""
BY_LAYER_TYPE = {
    "gemma2",
    "gemma3_text",
    "qwen2",
    "qwen3",
    "smollm3",
}  # they take a mask for each type of layer, the others one
ROUND_TO = 64  # slots: lengths that are near each other share a cache, and CUDA's kernels like whole blocks
LOOK_EVERY = 8  # tokens on CUDA, where looking whether all rows have ended waits for the device
WARM_UPS = 3  # runs before a capture: libraries choose kernels and take workspace in the first ones
SHAPING: tuple[str, ...] = (
    *("no_repeat_ngram_size", "min_length", "min_new_tokens", "suppress_tokens", "begin_suppress_tokens"),
    *("bad_words_ids", "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "guidance_scale"),
    *("exponential_decay_length_penalty", "remove_invalid_values", "encoder_repetition_penalty"),
)
"""What a published generation config may hold that changes greedy choices; transformers knows how."""


class LanguageModel(Protocol):
    """What is decoded: a module with a transformers causal language model in it.

    Attributes:
        base: the transformers model, whose layers may hold adapters.
        training: whether it is in training mode.
    """

    training: bool

    @property
    def base(self) -> Any: ...  # noqa: D102


@dataclass
class _Prefix:
    """Token ids that prompts begin with, and their keys and values `[1, heads, tokens, width]` by layer."""

    ids: list[int]
    pairs: list[tuple[Tensor, Tensor]]
    versions: int


@dataclass
class _State:
    """Everything that a decode step reads and writes, at addresses that never change.

    Attributes:
        mask: `[batch, 1, 1, length]`, added to attention scores.
        token, position, done: `[batch, 1]`: the last token, its position, and whether its row has ended.
        slot, count: `[1]`: where the token goes in the cache, and how many there are in `tokens` `[batch, length]`.
        generated_mask: `[batch, vocabulary]`, tokens that were generated already; None where nothing is penalized.
        seeds: `[batch, 1]`, what each row's draws depend on.
    """

    options: DecodingOptions
    structure: int
    cache: FixedCache
    mask: Tensor
    token: Tensor
    position: Tensor
    done: Tensor
    slot: Tensor
    count: Tensor
    tokens: Tensor
    generated_mask: Tensor | None
    seeds: Tensor
    ends: Tensor
    graph: Any = None


class StaticCacheDecoder:
    """The likeliest token, or a drawn one, one after the other, for a batch of prompts.

    It keeps one cache, with its CUDA graph, and the keys and values of one prefix from call to call; both are given up
    when the decoder's weights have been moved or changed.

    Args:
        decoder: the language model; its adapters, if any, are run as they are.
    """

    def __init__(self, decoder: LanguageModel) -> None:
        self._decoder = decoder
        self._kept: _State | None = None
        self._prefix: _Prefix | None = None
        self._eager = False  # a capture has failed
        self.reuse_prefix = True

    @property
    def _state(self) -> _State:
        """What the batch that has begun works on."""
        assert self._kept is not None
        return self._kept

    def supports(self, length: int) -> bool:
        """Whether it can decode up to `length` tokens a row, prompt included, as transformers would."""
        base = self._decoder.base
        config = base.config
        if getattr(config, "model_type", "") not in FAMILIES or self._decoder.training:
            return False
        if config._attn_implementation not in ("eager", "sdpa") or getattr(
            config, "use_bidirectional_attention", False
        ):
            return False
        if any(getattr(base.generation_config, name, None) for name in SHAPING):
            return False
        # Without types of layers (Mistral, Phi 3) a window is that of all of them.
        types = getattr(config, "layer_types", None)
        slides = "sliding_attention" in types if types else getattr(config, "sliding_window", None) is not None
        return not slides or length <= config.sliding_window

    @property
    def kind(self) -> str:
        """How it decodes, in words."""
        return "static cache" if self._eager or self._device.type != "cuda" else "static cache, CUDA graph"

    def reset_cache(self) -> None:
        """Give up cache, graph and prefix."""
        self._kept = self._prefix = None

    def cache_bytes(self) -> int:
        """Bytes of keys and values held for a batch."""
        return 0 if self._kept is None else self._kept.cache.nbytes()

    @torch.inference_mode()
    def generate(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: DecodingOptions,
        heads: Sequence[list[int]] = (),
        seeds: Sequence[int] = (),
        on_token: Callable[[list[int]], None] | None = None,
    ) -> Tensor:
        """Decode until every row has ended.

        Args:
            embeds: left-padded prompts `[batch, length, width]`.
            mask: `[batch, length]`, 1 at real places.
            options: when to stop.
            heads: for each row the token ids that its prompt begins with; what all have in common is computed once
                and kept for the batches to come.
            seeds: one for each row, where tokens are drawn (`nota_cli.generation.draws.row_seeds`).
            on_token: called after every token with the first row's ids so far; what it raises ends the search.

        Returns:
            Token ids `[batch, tokens]`, ends included and `options.pad_id` behind them.
        """
        self.begin(embeds, mask, options, heads, seeds)
        sync_every = LOOK_EVERY if self._device.type == "cuda" and on_token is None else 1
        for step in range(1, options.max_new_tokens):
            if on_token is not None:
                on_token(self._state.tokens[0, :step].tolist())
            if step % sync_every == 0 and bool(self._state.done.all()):
                break
            self.step()
        else:
            if on_token is not None:
                on_token(self._state.tokens[0, : int(self._state.count)].tolist())
        tokens = self._state.tokens[:, : int(self._state.count)].cpu()
        ended = torch.isin(tokens, torch.tensor(options.end_ids)).cumsum(1)
        return tokens[:, : int((ended[:, :-1] == 0).sum(1).max()) + 1]

    @torch.inference_mode()
    def begin(
        self,
        embeds: Tensor,
        mask: Tensor,
        options: DecodingOptions,
        heads: Sequence[list[int]] = (),
        seeds: Sequence[int] = (),
    ) -> None:
        """Prefill, and the first token; the arguments are those of `generate`."""
        structure, versions = _stamps(self._decoder)
        state = self._state_for(embeds, options, structure)
        common = _common(heads) if self.reuse_prefix else []
        if self._prefix is not None and self._prefix.versions != versions:
            self._prefix = None
        known = len(common) if self._prefix is not None and self._prefix.ids[: len(common)] == common else 0
        batch, total = mask.shape
        cache, order = state.cache, mask.cumsum(1)
        if known:
            cache.slots = slice(0, known)
            assert self._prefix is not None
            for layer, (keys, values) in enumerate(self._prefix.pairs):
                cache.update(keys[:, :, :known], values[:, :, :known], layer)
        # The prefix comes first, then the padding: a row's places are those that the prefix has not taken.
        real = torch.cat([mask.new_ones(batch, known), order[:, known:] > known], dim=1).bool()
        cache.slots, cache.seen = slice(known, total), total
        prompt = self._prompt_mask(real, known, embeds.dtype)
        logits = self._logits(prompt, (order - 1).clamp(min=0)[:, known:], inputs_embeds=embeds[:, known:])
        if common and not known:
            row = order[:, -1:].argmax(0)  # the longest one, which has no padding
            pairs = zip(cache.keys, cache.values, strict=True)
            first = [
                (
                    keys.index_select(0, row)[:, :, : len(common)].clone(),
                    values.index_select(0, row)[:, :, : len(common)].clone(),
                )
                for keys, values in pairs
            ]
            self._prefix = _Prefix(common, first, versions)
        state.mask.fill_(torch.finfo(embeds.dtype).min)
        state.mask[:, 0, 0, :total].masked_fill_(real, 0.0)
        state.position.copy_(order[:, -1:])
        state.slot.fill_(total)
        state.count.zero_()
        state.done.zero_()
        state.seeds.copy_(torch.tensor(seeds or [0] * batch)[:, None])
        if state.generated_mask is not None:
            state.generated_mask.zero_()
        cache.slots = state.slot
        if self._device.type == "cuda":
            cache.seen = cache.length
        self._choose(logits)

    @torch.inference_mode()
    def step(self) -> None:
        """One token more in every row; a row that has ended gets padding."""
        state = self._state
        if self._device.type != "cuda":
            state.cache.seen += 1  # a graph's shapes cannot grow; without one the empty slots are left out
        elif state.graph is None and not self._eager:
            self._capture()
        if state.graph is None:
            self._one()
        else:
            state.graph.replay()

    @property
    def _device(self) -> torch.device:
        return self._decoder.base.get_input_embeddings().weight.device

    def _one(self) -> None:
        """A decode step: a function of the state's tensors alone, which it changes in place."""
        state = self._state
        state.mask.index_fill_(3, state.slot, 0.0)
        mask = state.mask[..., : state.cache.seen]
        logits = self._logits(mask, state.position, input_ids=state.token)
        state.slot += 1
        state.position += 1
        self._choose(logits)

    def _logits(self, mask: Tensor, positions: Tensor, **inputs: Tensor) -> Tensor:
        """Of the last place `[batch, vocabulary]`; the model under peft's wrapper has the adapters in its layers."""
        base = self._decoder.base
        by_type = base.config.model_type in BY_LAYER_TYPE
        masks = dict.fromkeys(base.config.layer_types, mask) if by_type else mask
        return base(
            **inputs,
            attention_mask=masks,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{cache_name(): self._state.cache},
        ).logits[:, -1]

    def _choose(self, logits: Tensor) -> None:
        """The next token of every row from its logits `[batch, vocabulary]`."""
        state = self._state
        if state.generated_mask is not None:
            penalty, logits = state.options.repetition_penalty, logits.float()
            penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
            logits = torch.where(state.generated_mask, penalized, logits)
        if state.options.sampling is not None:
            logits = perturb(logits, state.seeds, state.count, state.options.sampling)
        chosen = logits.argmax(-1, keepdim=True).masked_fill_(state.done, state.options.pad_id)
        state.done |= (chosen == state.ends).any(-1, keepdim=True)
        if state.generated_mask is not None:
            state.generated_mask.scatter_(1, chosen, True)
        state.tokens.index_copy_(1, state.count, chosen)
        state.count += 1
        state.token.copy_(chosen)

    @staticmethod
    def _prompt_mask(real: Tensor, known: int, dtype: torch.dtype) -> Tensor:
        """What each place behind the first `known` may look at `[batch, 1, places, all places]`, to be added.

        Padding looks at itself alone: a place that may look nowhere would be no number in half precision.
        """
        positions = torch.arange(real.size(1), device=real.device)
        queries = positions[known:, None]
        visible = (positions <= queries) & real[:, None, None, :] | (positions == queries)
        return torch.zeros(visible.shape, dtype=dtype, device=real.device).masked_fill_(
            ~visible, torch.finfo(dtype).min
        )

    def _state_for(self, embeds: Tensor, options: DecodingOptions, structure: int) -> _State:
        """The state kept from before where it fits, else a new one, the old one's memory freed first."""
        batch, device = embeds.size(0), embeds.device
        needed = -(-(embeds.size(1) + options.max_new_tokens) // ROUND_TO) * ROUND_TO
        old = self._kept
        if old is not None:
            same = (old.structure, old.cache.batch, old.mask.dtype) == (structure, batch, embeds.dtype)
            alike = replace(options, max_new_tokens=old.options.max_new_tokens) == old.options
            if same and alike and needed <= old.cache.length <= 2 * needed:
                if device.type == "cuda":
                    old.cache.clear()
                return old
        self._kept = old = None
        integers: dict[str, Any] = {"dtype": torch.long, "device": device}
        penalized = options.repetition_penalty != 1.0
        vocabulary = self._decoder.base.config.vocab_size
        state = _State(
            options=options,
            structure=structure,
            cache=FixedCache(batch, needed),
            mask=torch.zeros(batch, 1, 1, needed, dtype=embeds.dtype, device=device),
            token=torch.zeros(batch, 1, **integers),
            position=torch.zeros(batch, 1, **integers),
            done=torch.zeros(batch, 1, dtype=torch.bool, device=device),
            slot=torch.zeros(1, **integers),
            count=torch.zeros(1, **integers),
            tokens=torch.zeros(batch, needed, **integers),
            generated_mask=torch.zeros(batch, vocabulary, dtype=torch.bool, device=device) if penalized else None,
            seeds=torch.zeros(batch, 1, **integers),
            ends=torch.tensor(options.end_ids, **integers),
        )
        self._kept = state
        return state

    def _capture(self) -> None:
        """Record one step as a CUDA graph; what the warm-up changed is put back."""
        state = self._state
        if not self._decoder.base._can_compile_fullgraph:
            return self._give_up_graphs("what it runs depends on the tokens")
        changing = [state.mask, state.token, state.position, state.done, state.slot, state.count, state.tokens]
        changing += [] if state.generated_mask is None else [state.generated_mask]
        kept = [tensor.clone() for tensor in changing]

        def restore() -> None:
            for tensor, value in zip(changing, kept, strict=True):
                tensor.copy_(value)

        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._one()  # each time the same: what it writes into the cache, the real step writes again
                restore()
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):  # loaders have threads
                self._one()
            state.graph = graph
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up_graphs(str(error))
        restore()

    def _give_up_graphs(self, reason: str) -> None:
        self._eager = True
        warn(f"this decoder's steps cannot be a CUDA graph, so their kernels are started one by one: {reason}")


def _common(heads: Sequence[list[int]]) -> list[int]:
    """The longest beginning that all rows share, their last token left out: something must be left to run."""
    shared: list[int] = []
    for ids in zip(*(head[:-1] for head in heads), strict=False):
        if len(set(ids)) > 1:
            break
        shared.append(ids[0])
    return shared


def _stamps(decoder: Any) -> tuple[int, int]:
    """One number for where the weights lie and how they are put together, one for what they are.

    Changes in place through `.data` are not seen; nothing here makes any between two calls.
    """
    addresses: list[object] = []
    versions: list[int] = []
    modules: list[nn.Module] = [decoder]
    while modules:
        module = modules.pop()
        modules += [child for child in module._modules.values() if child is not None]
        addresses.append(module.__dict__.get("_disable_adapters"))  # peft's switch
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                addresses.append(tensor.data_ptr())
                versions.append(0 if tensor.is_inference() else tensor._version)
    structure = hash(tuple(addresses))
    return structure, hash((structure, tuple(versions)))
