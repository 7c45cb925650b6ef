"""Published Whisper models as recipes: the texts of transformers' own greedy generation, whatever the batch."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from helpers.paths import SAMPLES
from nota_cli.data.audio.clip import load_audio
from nota_cli.models.build import build
from nota_cli.prompts import Query
from nota_cli.recipe.load import load_any_recipe

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", ["whisper-tiny.en", "whisper-base"])
@torch.inference_mode()
def test_texts_are_transformers_own(name: str, weights: Callable[[str], Path], recordings: list[np.ndarray]) -> None:
    folder = weights(name)
    recipe = load_any_recipe(name, [f"model.path={folder}", "generate.max_new_tokens=24"])
    model = build(recipe, purpose="run")
    # Speech: what Whisper makes of an instrument, "you" or dots, is a matter of the last digit.
    digits = [load_audio(SAMPLES / "audio" / f"digits-{clip}.flac") for clip in ("371", "17352")]
    clips = [wave[: 8 * 16_000] for wave in [recordings[0], *digits]]
    features = model.preprocessor().features(clips)
    together = [answer.text for answer in model.generate_answers(features, [Query("asr")] * len(clips))]
    theirs = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = WhisperProcessor.from_pretrained(folder)
    for index, clip in enumerate(clips):
        inputs = processor(clip, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
        ids = theirs.generate(**inputs, max_new_tokens=24, num_beams=1, do_sample=False, **recipe.model.options)
        expected = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
        alone = model.generate_answers(features.part(slice(index, index + 1)), [Query("asr")])
        assert together[index] == alone[0].text == expected != ""
