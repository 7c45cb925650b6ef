"""Quantizing real Gemma 3 layers by `nota quantize`, and nf4: how far outputs and perplexity move.

GPTQ of all 18 layers takes minutes; `benchmarks/real_decoder.py` does that, and docs/gptq.md has its table. Here the
first layers go through the command, and the whole decoder through nf4.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from nota_cli.compress.layers import prune_layers
from nota_cli.compress.nf4 import count_nf4
from nota_cli.compress.vocabulary import prune_vocabulary
from nota_cli.model.build import build
from nota_cli.model.decoder import Decoder, load_decoder
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Decoder as DecoderSpec

pytestmark = pytest.mark.real
SAMPLES = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny" / "samples"
LAYERS = 2
HELD_OUT = (
    "The train left the station at a quarter past nine and did not come back.",
    "A child laughs while music plays in the background.",
    "She poured the tea, sat down by the window and opened her letters.",
    "It is said that the harbour was once the largest in the country.",
)


@pytest.fixture(scope="module")
def trimmed(weights: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The decoder with few tokens: its layers are the real ones, and files of it are quick to write."""
    folder = tmp_path_factory.mktemp("quantization") / "trimmed"
    rows = [row for name in ("asr", "aac") for row in json.loads((SAMPLES / f"{name}.json").read_text())["annotation"]]
    prompts = "USER: <Speech></Speech> Recognize the speech and give me the transcription.\nASSISTANT:"
    prune_vocabulary(weights("gemma-3-270m"), folder, [prompts, *HELD_OUT, *(row["text"] for row in rows)])
    return folder


@pytest.fixture(scope="module")
def recipe(weights: Callable[[str], Path], trimmed: Path) -> Path:
    values = {
        "audio": {"pad": "clip"},
        "speech_encoder": {"path": str(weights("whisper-tiny.en"))},
        "audio_encoder": {"kind": "none"},
        "decoder": {"path": str(trimmed)},
        "data": {
            "train": [
                {"annotation": str(SAMPLES / f"{name}.json"), "audio_root": str(SAMPLES)} for name in ("asr", "aac")
            ]
        },
        "train": {"workers": 0},
    }
    path = trimmed.parent / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@torch.inference_mode()
def logits(decoder: Decoder, text: str) -> tuple[Tensor, Tensor]:
    """Logits `[tokens, vocabulary]` for every token of a text but BOS, and the tokens' ids."""
    ids = torch.tensor([[decoder.tokenizer.bos_token_id, *decoder.token_ids(text)]])
    return decoder.model(inputs_embeds=decoder.embed(ids)).logits[0, :-1].float(), ids[0, 1:]


def loss(decoder: Decoder) -> float:
    """Mean cross-entropy a token of the held-out texts, in nats."""
    scored = [logits(decoder, text) for text in HELD_OUT]
    found, ids = (torch.cat(part) for part in zip(*scored, strict=True))
    return float(torch.nn.functional.cross_entropy(found, ids))


def distance(decoder: Decoder, reference: Decoder) -> float:
    """Of the logits, relative."""
    found, expected = (torch.cat([logits(one, text)[0] for text in HELD_OUT]) for one in (decoder, reference))
    return float((found - expected).norm() / expected.norm())


def test_gptq_of_real_layers(recipe: Path, tmp_path: Path, nota: Callable[..., int]) -> None:
    torch.manual_seed(0)
    build(load_recipe(str(recipe))).save_pretrained(tmp_path / "whole")
    prune_layers(tmp_path / "whole", tmp_path / "short", {"decoder": list(range(LAYERS))})
    short = load_recipe(str(tmp_path / "short"))
    reference = build(short.model_copy(update={"checkpoint": str(tmp_path / "short")})).decoder.eval()
    assert len(reference.base.model.layers) == LAYERS
    distances = {}
    for bits, group in ((8, 32), (4, 32), (4, 128)):
        out = tmp_path / f"gptq-{bits}-{group}"
        options = ["--bits", bits, "--group-size", group, "--clips", 12, "--out", out]
        assert nota("quantize", tmp_path / "short", "--recipe", recipe, *options) == 0
        stored = json.loads((out / "decoder" / "config.json").read_text())["quantization_config"]
        assert (stored["bits"], stored["group_size"]) == (bits, group)
        loaded = build(load_recipe(str(out)).model_copy(update={"checkpoint": str(out)})).decoder.eval()
        distances[bits, group] = distance(loaded, reference)
    assert 0 < distances[8, 32] < 0.02
    assert distances[8, 32] < distances[4, 32] / 5
    assert distances[4, 32] < distances[4, 128] < 0.25


def test_nf4_keeps_perplexity(trimmed: Path) -> None:
    pytest.importorskip("bitsandbytes")
    full = load_decoder(DecoderSpec(path=str(trimmed))).eval()
    nf4 = load_decoder(DecoderSpec(path=str(trimmed), quantisation="nf4")).eval()
    assert count_nf4(nf4.model) == 7 * 18
    before, after = loss(full), loss(nf4)
    assert 1.0 < before < 5.0  # it models English; at random it would be near 6.5
    assert before != after
    assert abs(after - before) < 0.35
