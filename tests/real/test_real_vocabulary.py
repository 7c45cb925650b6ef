"""`nota prune-vocabulary` on Gemma's tokenizer: texts are cut as before, answers are those of the kept tokens."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LogitsProcessor, LogitsProcessorList

from nota_cli.model.decoder import Decoder, load_decoder
from nota_cli.model.decoding import GreedyDecoder, Rules
from nota_cli.recipe.schema import Decoder as DecoderSpec

pytestmark = pytest.mark.real
PROMPTS = ("one two three", "a dog is", "the old man said that")
TOKENS = 8


@pytest.fixture(scope="module")
def trimmed(weights: Callable[[str], Path], texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder's folder as the command writes it."""
    folder = tmp_path_factory.mktemp("trimmed")
    recipe = {
        "speech_encoder": {"path": str(weights("whisper-tiny.en"))},
        "audio_encoder": {"kind": "none"},
        "decoder": {"path": str(weights("gemma-3-270m"))},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "texts.txt").write_text("\n".join([*texts, *PROMPTS]))
    command = ["prune-vocabulary", folder / "recipe.yaml", "--texts", folder / "texts.txt", "--out", folder / "decoder"]
    subprocess.run([sys.executable, "-m", "nota_cli.cli", *map(str, command)], check=True)
    return folder / "decoder"


@pytest.fixture(scope="module")
def full(weights: Callable[[str], Path]) -> Decoder:
    return load_decoder(DecoderSpec(path=str(weights("gemma-3-270m")))).eval()


@pytest.fixture(scope="module")
def small(trimmed: Path) -> Decoder:
    return load_decoder(DecoderSpec(path=str(trimmed))).eval()


def test_every_text_is_cut_into_the_same_words(full: Decoder, small: Decoder, texts: list[str]) -> None:
    assert len(small.tokenizer) < len(full.tokenizer) / 10
    unique = sorted({*texts, *PROMPTS})
    before, after = (decoder.tokenizer(unique, add_special_tokens=True).input_ids for decoder in (full, small))
    for text, old, new in zip(unique, before, after, strict=True):
        assert full.tokenizer.convert_ids_to_tokens(old) == small.tokenizer.convert_ids_to_tokens(new)
        assert small.tokenizer.decode(new, skip_special_tokens=True) == text
    unseen = "Qwertyuiop 98765 žluťoučký 🐙"  # falls back on bytes and comes back whole
    assert small.tokenizer.decode(small.token_ids(unseen)) == unseen
    assert small.tokenizer.bos_token_id == small.base.config.bos_token_id
    assert small.tokenizer.eos_token_id in small.end_ids


class Only(LogitsProcessor):
    """Forbids all tokens but some."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = torch.tensor(ids)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_copy_(1, self.ids, scores[:, self.ids])


@torch.inference_mode()
def test_answers_are_those_of_the_full_model_with_the_other_tokens_forbidden(
    trimmed: Path, full: Decoder, small: Decoder
) -> None:
    old_ids = json.loads((trimmed / "vocabulary.json").read_text())["old_ids"]
    assert len(old_ids) == small.base.config.vocab_size
    for text in PROMPTS:
        ids = torch.tensor([[full.tokenizer.bos_token_id, *full.token_ids(text)]])
        expected = full.model.generate(
            ids,
            max_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
            logits_processor=LogitsProcessorList([Only(old_ids)]),
        )[0, ids.size(1) :].tolist()
        own = torch.tensor([[small.tokenizer.bos_token_id, *small.token_ids(text)]])
        rules = Rules(TOKENS, (small.tokenizer.eos_token_id,), small.tokenizer.pad_token_id)
        found = GreedyDecoder(small).generate(small.embed(own), torch.ones_like(own), rules)
        assert [old_ids[token] for token in found[0].tolist()] == expected
