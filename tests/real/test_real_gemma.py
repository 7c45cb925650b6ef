"""Gemma 3 270M through this project's decoder: the greedy tokens that transformers finds, both ways of decoding."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from nota_cli.data.inputs import extract
from nota_cli.model.build import build
from nota_cli.model.decoder import Decoder, load_decoder
from nota_cli.model.decoding import GreedyDecoder, Rules
from nota_cli.prompts import Query
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Decoder as DecoderSpec

pytestmark = pytest.mark.real
PROMPTS = (
    "The capital of France is",
    "Water boils at",
    "In 1969, the first man on the moon was",
    "A dog barks while rain falls on a tin roof, and",
    "one two three four",
    "She opened the door and saw that the whole room was full of old clocks, all of which",
    "USER: <Speech></Speech> Recognize the speech and give me the transcription.\nASSISTANT:",
    "Once upon a time",
)
RULES = Rules(10, (1,), 0)


@pytest.fixture(scope="module")
def decoder(weights: Callable[[str], Path]) -> Decoder:
    return load_decoder(DecoderSpec(path=str(weights("gemma-3-270m")))).eval()


@pytest.fixture(scope="module")
def theirs(weights: Callable[[str], Path]) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(weights("gemma-3-270m"), dtype=torch.float32).eval()


def prompt_ids(decoder: Decoder, text: str) -> list[int]:
    return [decoder.tokenizer.bos_token_id, *decoder.token_ids(text)]


def left_padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings of rows `[length, width]` as a batch, and its mask."""
    length = max(map(len, rows))
    embeds = torch.zeros(len(rows), length, rows[0].size(1))
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        embeds[index, length - len(row) :], mask[index, length - len(row) :] = row, 1
    return embeds, mask


@torch.inference_mode()
def expected_tokens(model: PreTrainedModel, ids: list[int]) -> list[int]:
    """What transformers' own search adds to a prompt of token ids."""
    prompt = torch.tensor([ids])
    out = model.generate(prompt, max_new_tokens=RULES.max_new_tokens, do_sample=False, eos_token_id=1, pad_token_id=0)
    return out[0, len(ids) :].tolist()


def without_padding(row: Tensor) -> list[int]:
    ids = row.tolist()
    return ids[: ids.index(1) + 1] if 1 in ids else ids


@torch.inference_mode()
def test_greedy_tokens_are_those_of_transformers(decoder: Decoder, theirs: PreTrainedModel) -> None:
    rows = [prompt_ids(decoder, text) for text in PROMPTS]
    expected = [expected_tokens(theirs, ids) for ids in rows]
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)
    embeds, mask = left_padded([decoder.embed(torch.tensor(ids)) for ids in rows])
    plain = decoder.model.generate(
        inputs_embeds=embeds, attention_mask=mask, max_new_tokens=10, do_sample=False, eos_token_id=1, pad_token_id=0
    )
    assert [without_padding(row) for row in plain] == expected
    fixed = GreedyDecoder(decoder)
    assert fixed.takes(mask.size(1) + RULES.max_new_tokens)
    heads = [ids[:1] for ids in rows]
    for _ in range(2):  # a prefix is kept the first time
        assert [without_padding(row) for row in fixed.generate(embeds, mask, RULES, heads)] == expected
    for row in (1, 5):
        alone = left_padded([decoder.embed(torch.tensor(rows[row]))])
        assert without_padding(fixed.generate(*alone, RULES)[0]) == expected[row]


@torch.inference_mode()
def test_beyond_the_sliding_window(decoder: Decoder, theirs: PreTrainedModel) -> None:
    """The fixed cache leaves prompts to transformers that most layers cannot see whole; padding changes nothing."""
    window = decoder.base.config.sliding_window
    kinds = decoder.base.config.layer_types
    assert {kinds.count("sliding_attention"), kinds.count("full_attention")} == {15, 3}
    fixed = GreedyDecoder(decoder)
    assert fixed.takes(window)
    assert not fixed.takes(window + 1)
    ids = prompt_ids(decoder, "The quick brown fox jumps over the lazy dog, then it sleeps. " * 40)[: window + 30]
    embeds, mask = left_padded([decoder.embed(torch.tensor(part)) for part in (ids, ids[: window // 4])])
    found = decoder.model.generate(
        inputs_embeds=embeds, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=1, pad_token_id=0
    )
    for row, part in zip(found, (ids, ids[: window // 4]), strict=True):
        assert row.tolist() == expected_tokens(theirs, part)[:4]


def test_the_tokenizer_is_gemmas(decoder: Decoder) -> None:
    """Ids that Google published for these pieces; runs of spaces and line ends are tokens of their own."""
    tokenizer = decoder.tokenizer
    assert tokenizer("The capital of France is").input_ids[0] == tokenizer.bos_token_id == 2
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 0, 3)
    assert decoder.token_ids("\n\n") == [108]
    assert decoder.token_ids("a  b")[1] == 138
    assert tokenizer.convert_tokens_to_ids("<start_of_turn>") == 105
    for text in ("naïve café – 17,352 dogs!", " leading, and  double ", "日本語 🐶\tend\n"):
        assert tokenizer.decode(decoder.token_ids(text)) == text


def test_audio_embeddings_enter_unscaled(decoder: Decoder) -> None:
    """Gemma 3 scales its tokens, and nothing else that enters; so did every implementation of it."""
    assert decoder.audio_scale == 1.0
    scaled = decoder.embed(torch.tensor([1000]))
    raw = decoder.base.get_input_embeddings().weight[1000]
    torch.testing.assert_close(scaled[0], raw * 640**0.5)


def test_a_whole_system_answers_alike_in_any_batch_and_either_way(
    weights: Callable[[str], Path], recordings: list[np.ndarray], tmp_path: Path
) -> None:
    recipe = {
        "audio": {"pad": "clip"},
        "speech_encoder": {"path": str(weights("whisper-tiny.en"))},
        "audio_encoder": {"kind": "none"},
        "decoder": {"path": str(weights("gemma-3-270m"))},
        "generate": {"beams": 1, "max_new_tokens": 6},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    torch.manual_seed(0)
    model = build(load_recipe(str(tmp_path / "recipe.yaml"))).eval()
    queries = [Query("asr"), Query("audiocaption_v2"), Query("QA", "What is it?"), Query("asr")]
    features = extract(recordings, 80, front_end=None, pad="clip")
    plain = model.recipe.generate.model_copy(update={"decoding": "plain"})
    expected = model.generate(features, queries, plain)
    assert any(expected)
    assert model.generate(features, queries) == expected
    for row, query in enumerate(queries):
        assert model.generate(features.part(slice(row, row + 1)), [query]) == expected[row : row + 1]
