"""Time per token of the cache of fixed size beside transformers' own loop, for each family of decoders.

    python benchmarks/fixed_cache.py [--tokens 48] [--rounds 5]

Decoders of random weights (8 layers, width 512), a prompt of 64 embeddings, batch 1, float32, the two ways in turns.
Prints a Markdown table of medians and ends with one JSON line.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.decoders import FAMILIES
from nota_cli.generation.options import DecodingOptions
from nota_cli.generation.static_decoder import StaticCacheDecoder
from nota_cli.models.decoders.decoder import Decoder
from nota_cli.weights.attention import default_attention

LAYERS, WIDTH, PROMPT = 8, 512, 64
SHAPE = {"vocab_size": 8000, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 8}
SHAPE |= {"num_hidden_layers": LAYERS, "num_key_value_heads": 4, "eos_token_id": None}


def make(family: str) -> Decoder:
    """A decoder of random weights."""
    own = {"head_dim": 64} if "head_dim" in FAMILIES[family] else {}
    if family == "gemma3_text":
        own["layer_types"] = ["sliding_attention", "full_attention"] * (LAYERS // 2)
    if family == "llama_moe":
        own |= {"num_experts": 4, "num_selects": 2, "size_experts": [[WIDTH] * 4] * LAYERS, "num_key_value_heads": 8}
    config = AutoConfig.for_model(family, **{**FAMILIES[family], **SHAPE, **own})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=default_attention(config))
    return Decoder(model.eval(), SimpleNamespace())


@torch.inference_mode()
def seconds_a_token(decoder: Decoder, tokens: int, rounds: int) -> tuple[float, float, bool]:
    """Medians of the loop and of the fixed cache, the time to one token taken off, and whether the tokens are equal."""
    fixed = StaticCacheDecoder(decoder)
    embeds, mask = 0.5 * torch.randn(1, PROMPT, WIDTH), torch.ones(1, PROMPT, dtype=torch.long)

    def loop(count: int) -> torch.Tensor:
        return decoder.base.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=count, do_sample=False, pad_token_id=0
        )

    def cache(count: int) -> torch.Tensor:
        return fixed.generate(embeds, mask, DecodingOptions(count, (), 0))

    times: dict[str, list[float]] = {"loop": [], "cache": []}
    same = True
    for number in range(rounds + 1):
        outputs = []
        for name, run in (("loop", loop), ("cache", cache)):
            spent = []
            for count in (1, tokens):
                start = time.perf_counter()
                output = run(count)
                spent.append(time.perf_counter() - start)
            outputs.append(output)
            if number:
                times[name].append((spent[1] - spent[0]) / (tokens - 1))
        same &= torch.equal(*outputs)
    return statistics.median(times["loop"]), statistics.median(times["cache"]), same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(
        "| family | transformers' loop, ms a token | fixed cache, ms a token | ratio | same tokens |\n|---|---|---|---|---|"
    )
    figures = {}
    for family in FAMILIES:
        loop, cache, same = seconds_a_token(make(family), arguments.tokens, arguments.rounds)
        figures[family] = {"loop_s": loop, "cache_s": cache, "ratio": cache / loop, "same_tokens": same}
        print(f"| {family} | {1000 * loop:.2f} | {1000 * cache:.2f} | {cache / loop:.2f}x | {same} |", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
