"""The greedy loop: the tokens of transformers' own, whatever the batch, the family, the adapters and what was kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from helpers.decoders import ENDS, FAMILIES, HEAD, SIZES, listen, make_decoder, make_prompts
from helpers.networks import load_network
from helpers.paths import SHIPPED
from nota_cli.data.annotation import read_annotation
from nota_cli.efficiency.measure import Settings, measure_model
from nota_cli.generation.kv_cache import cache_name
from nota_cli.generation.options import DecodingOptions
from nota_cli.generation.static_decoder import StaticCacheDecoder
from nota_cli.inference.predict import predict
from nota_cli.models.build import build
from nota_cli.models.decoders.decoder import Decoder
from nota_cli.models.inference_lora import merge_lora, use_inference_lora
from nota_cli.recipe.load import load_recipe

SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
SIZES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@torch.inference_mode()
def plain_tokens(decoder: Decoder, embeds: Tensor, mask: Tensor, rules: DecodingOptions) -> Tensor:
    penalty = rules.repetition_penalty
    return decoder.model.generate(
        inputs_embeds=embeds,
        attention_mask=mask,
        max_new_tokens=rules.max_new_tokens,
        num_beams=1,
        do_sample=False,
        logits_processor=LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)] if penalty != 1.0 else []),
        eos_token_id=list(rules.end_ids),
        pad_token_id=rules.pad_id,
    )


@contextmanager
def watch_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """The last place's logits of each forward pass."""
    seen: list[Tensor] = []
    hook = model.register_forward_hook(lambda module, inputs, output: seen.append(output.logits[:, -1].float()))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_are_those_of_transformers(family: str, adapted: bool) -> None:
    decoder = make_decoder(family, adapted)
    fixed = StaticCacheDecoder(decoder)
    lengths, ended = [], 0
    for penalty in (1.0, 1.7):
        for sizes, count in (((14,), 20), ((9, 20, 7, 12, 20, 31, 8, 15), 30), ((12, 6), 1), ((25, 8, 6, 30, 6), 50)):
            embeds, mask = make_prompts(decoder, sizes, seed=count)
            rules = DecodingOptions(count, ENDS, 0, penalty)
            expected = plain_tokens(decoder, embeds, mask, rules)
            ended += int((expected[:, -1] == 0).sum())
            for heads in ([], [HEAD] * len(sizes), [HEAD] * len(sizes)):  # nothing known, kept, used
                assert torch.equal(fixed.generate(embeds, mask, rules, heads), expected)
            if len(sizes) == 8:
                for row, length in enumerate(sizes):  # and each prompt alone, without its padding
                    alone = fixed.generate(embeds[row : row + 1, -length:], mask[row : row + 1, -length:], rules)
                    assert torch.equal(alone[0], expected[row, : alone.size(1)])
            lengths.append(expected.size(1))
    assert ended >= 2  # rows that were done while others went on
    assert max(lengths) > 8


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kept_prefix_changes_logits_by_rounding_alone(family: str) -> None:
    decoder = make_decoder(family)
    fixed, rules = StaticCacheDecoder(decoder), DecodingOptions(8, (), 0)
    passes = []
    for seed, heads in ((4, [HEAD] * 3), (3, []), (3, [HEAD] * 3), (3, [HEAD[:3], [*HEAD[:3], 9], HEAD])):
        with watch_logits(decoder.base) as logits:
            fixed.generate(*make_prompts(decoder, (9, 14, 7), seed), rules, heads)
        passes.append(torch.stack(logits))
    _, whole, *reusing = passes
    for found in reusing:
        assert not torch.equal(found, passes[0])
        assert float((found - whole).norm() / whole.norm()) < 1e-5


def test_nothing_stale_is_used(tiny_recipe: Path, clips: Path) -> None:
    """Weights changed in place, adapters switched off or merged: what was kept no longer holds."""
    settings = ["lora={rank: 4, alpha: 16, targets: [q_proj, v_proj]}", "generate.max_new_tokens=12"]
    model = build(load_recipe(str(tiny_recipe), settings))
    with torch.no_grad():
        for name, parameter in model.decoder.named_parameters():
            parameter += (0.2 if "lora_" in name else 0.1) * torch.randn_like(parameter)
    features, queries = listen(model, clips)[0]
    plain = model.recipe.generate.model_copy(update={"decoding": "plain"})
    texts = set()

    def check() -> None:
        found = model.generate(features, queries)
        assert found == model.generate(features, queries) == model.generate(features, queries, plain)
        texts.add(tuple(found))

    check()
    with model.decoder.model.disable_adapter():
        check()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(1.2)
    check()
    assert len(texts) == 3
    assert merge_lora(model) == 4
    check()
    assert model.greedy.cache_bytes() > 0
    model.train()
    assert model.greedy.cache_bytes() == 0
    assert not model.greedy.supports(10)  # dropout is on


@pytest.mark.parametrize("penalty", [1.0, 1.7])
def test_a_system_says_the_same_either_way(tiny_checkpoint: Path, clips: Path, penalty: float) -> None:
    model = load_network(tiny_checkpoint)
    auto = model.recipe.generate.model_copy(update={"repetition_penalty": penalty, "max_new_tokens": 20})
    plain, once = auto.model_copy(update={"decoding": "plain"}), auto.model_copy(update={"max_new_tokens": 1})
    for features, queries in listen(model, clips):
        expected = model.generate(features, queries, plain)
        assert any(expected)
        model.greedy.reuse_prefix = False
        assert model.generate(features, queries, auto) == expected
        model.greedy.reuse_prefix = True
        assert model.generate(features, queries, auto) == model.generate(features, queries, auto) == expected
        one = once.model_copy(update={"decoding": "plain"})
        assert model.generate(features, queries, once) == model.generate(features, queries, one)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("decoding", ["auto", "plain"])
def test_punished_repetition_does_not_depend_on_the_batch(
    tiny_checkpoint: Path, clips: Path, decoding: str, beams: int
) -> None:
    """transformers 5.23 spares as many generated tokens as a row has padding, when it is asked by name."""
    model = load_network(tiny_checkpoint)
    changes = {"repetition_penalty": 1.7, "max_new_tokens": 12, "beams": beams, "decoding": decoding, "batch_size": 1}
    settings = model.recipe.generate.model_copy(update=changes)
    rows = read_annotation(clips / "all.json")
    alone = predict(model, rows, clips, settings=settings, workers=0)
    together = predict(model, rows, clips, settings=settings.model_copy(update={"batch_size": 5}), workers=0)
    assert alone == together


@pytest.mark.parametrize("quantization", ["gptq", "nf4"])
def test_quantized_decoders_say_the_same_either_way(tiny_recipe: Path, clips: Path, quantization: str) -> None:
    if quantization == "nf4":
        pytest.importorskip("bitsandbytes")
    settings = [f"decoder.quantization={quantization}", "decoder.train=false", "generate.max_new_tokens=12"]
    torch.manual_seed(4)
    model = build(load_recipe(str(tiny_recipe), [*settings, "lora={targets: [q_proj]}"]), load_format="dummy")
    plain = model.recipe.generate.model_copy(update={"decoding": "plain"})
    for features, queries in listen(model, clips) * 2:
        assert model.generate(features, queries) == model.generate(features, queries, plain)


def test_lean_adapters_compute_the_same_to_the_bit() -> None:
    model = load_network(SHIPPED)
    rows, samples = read_annotation(SHIPPED / "samples" / "asr.json"), SHIPPED / "samples"
    texts = predict(model, rows, samples, workers=0)
    prompt = {"inputs_embeds": torch.randn(2, 9, 160), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    with torch.no_grad():
        expected = model.decoder.base(**prompt).logits
        assert use_inference_lora(model) == 6
        assert torch.equal(model.decoder.base(**prompt).logits, expected)
    assert predict(model, rows, samples, workers=0) == texts
    assert use_inference_lora(model) == 0


@pytest.mark.parametrize(("dtype", "alpha", "replaced"), [("float32", 16, 6), ("bfloat16", 16, 6), ("float32", 12, 0)])
def test_lean_adapters_need_a_scale_that_does_not_round(dtype: str, alpha: int, replaced: int) -> None:
    decoder = make_decoder("llama", adapted=True).to(getattr(torch, dtype))
    for module in decoder.modules():
        if isinstance(module, LoraLayer):
            module.scaling = {"default": alpha / 4}
    embeds, mask = make_prompts(decoder, (9, 6))
    with torch.no_grad():
        expected = decoder.base(inputs_embeds=embeds, attention_mask=mask).logits
        assert use_inference_lora(SimpleNamespace(decoder=decoder)) == replaced
        assert torch.equal(decoder.base(inputs_embeds=embeds, attention_mask=mask).logits, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_padding_is_harmless_in_half_precision(family: str, dtype: torch.dtype) -> None:
    decoder = make_decoder(family).to(dtype)
    fixed, rules = StaticCacheDecoder(decoder), DecodingOptions(6, (), 0)
    for _ in range(2):
        with watch_logits(decoder.base) as logits:
            fixed.generate(*make_prompts(decoder, (30, 6, 11)), rules, [HEAD] * 3)
        assert all(bool(values.isfinite().all()) for values in logits)


def test_one_cache_is_kept_and_shared_by_lengths_that_fit() -> None:
    decoder = make_decoder("llama")
    fixed = StaticCacheDecoder(decoder)
    sizes = []
    for lengths, count in (((30, 40), 60), ((30, 20), 60), ((50, 20), 70), ((20, 9), 10), ((9,), 10)):
        fixed.generate(*make_prompts(decoder, lengths), DecodingOptions(count, (), 0), [HEAD] * len(lengths))
        sizes.append(fixed.cache_bytes() // (2 * 2 * 2 * 16 * 4))  # layers, keys and values, heads, width, bytes
    assert sizes == [2 * 128, 2 * 128, 2 * 128, 2 * 128, 64]


def test_what_it_does_not_take_goes_the_plain_way(tiny_recipe: Path, clips: Path) -> None:
    decoder = make_decoder("gemma2", sliding_window=32)
    fixed = StaticCacheDecoder(decoder)
    assert fixed.supports(32)
    assert not fixed.supports(33)
    decoder.base.generation_config.no_repeat_ngram_size = 2
    assert not fixed.supports(32)
    model = build(load_recipe(str(tiny_recipe), ["decoder.config.sliding_window=8"]))
    features, queries = listen(model, clips)[0]
    plain = model.recipe.generate.model_copy(update={"decoding": "plain"})
    assert model.generate(features, queries) == model.generate(features, queries, plain)
    assert model.greedy.cache_bytes() == 0


@pytest.mark.filterwarnings("error:`past_key_values`:FutureWarning")  # of models, of a name that is no more
@pytest.mark.parametrize(("decoding", "named"), [("auto", "static cache"), ("plain", "plain")])
def test_efficiency_measures_the_loop_that_runs(
    tiny_recipe: Path, decoding: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nota_cli.efficiency.floor.BUFFER_BYTES", {"cpu": 2**20})  # floors are of no matter here
    monkeypatch.setattr("nota_cli.efficiency.floor.LARGEST_MATRIX", {"cpu": 256})
    model = build(load_recipe(str(tiny_recipe), [f"generate.decoding={decoding}"]))
    steps = []
    body = model.decoder.base.get_submodule("model")
    hook = body.register_forward_pre_hook(lambda module, inputs, named: steps.append(named), with_kwargs=True)
    report = measure_model(model, Settings(audio_seconds=1.0, tokens=3, rounds=2, warm_up=0))
    hook.remove()
    assert report["decoding"] == named
    caches = {type(step[cache_name()]).__name__ for step in steps if step.get("input_ids") is not None}
    assert caches == {"FixedCache" if decoding == "auto" else "DynamicCache"}
    assert report["seconds"]["tpot"]["count"] == 2 * 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_gives_the_tokens_of_eager_steps(
    family: str, penalty: float, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = make_decoder(family, adapted=True).to("cuda")
    graphs, on_cpu = StaticCacheDecoder(decoder), make_decoder(family, adapted=True)
    for sizes, count in (((9, 20, 7), 30), ((12, 6, 8), 30), ((14,), 20), ((12, 6), 1), ((12, 6), 2)):
        for _ in range(2):
            embeds, mask = make_prompts(on_cpu, sizes, seed=count)
            rules = DecodingOptions(count, ENDS, 0, penalty)
            found = graphs.generate(embeds.cuda(), mask.cuda(), rules, [HEAD] * len(sizes))
            assert torch.equal(found, plain_tokens(decoder, embeds.cuda(), mask.cuda(), rules).cpu())
    warned = "cannot be a CUDA graph" in capsys.readouterr().err
    assert warned == (graphs.kind == "static cache") == (family == "llama_moe")


@pytest.mark.parametrize("family", ["mistral", "phi3"])
def test_a_window_of_all_layers_is_not_outgrown(family: str) -> None:
    fixed = StaticCacheDecoder(make_decoder(family, sliding_window=64))
    assert fixed.supports(64)
    assert not fixed.supports(65)
