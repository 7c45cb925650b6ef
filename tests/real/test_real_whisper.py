"""The Whisper encoder on published weights and real recordings: the states of transformers' own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizer

from nota_cli.data.audio import load_audio
from nota_cli.data.inputs import extract
from nota_cli.model.whisper import load_whisper_encoder

pytestmark = pytest.mark.real
NAMES = ("whisper-tiny.en", "whisper-base")
DIGITS = Path(__file__).resolve().parents[2] / "checkpoints" / "tiny" / "samples" / "audio" / "digits-17352.flac"


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_the_states_are_those_of_transformers(
    name: str, weights: Callable[[str], Path], recordings: list[np.ndarray]
) -> None:
    folder = weights(name)
    ours = load_whisper_encoder(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    theirs = model.model.encoder
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    batch = extract(recordings[:2], ours.config.num_mel_bins, front_end=None, pad="30s")
    expected = theirs(extractor(recordings[:2], sampling_rate=16_000, return_tensors="pt").input_features)
    states, mask = ours(batch.log_mel)
    assert mask.all()
    assert distance(states, expected.last_hidden_state) < 1e-5

    # At the clip's own length a clip has the states of an encoder that knows no more positions, batch or none. That
    # encoder takes even numbers of frames alone.
    clips = [waveform[: min(len(waveform), 6 * 16_000) // 320 * 320] for waveform in recordings]
    batch = extract(clips, ours.config.num_mel_bins, front_end=None, pad="clip")
    states, mask = ours(batch.log_mel, batch.log_mel_lengths)
    positions = theirs.embed_positions.weight
    for row, frames in enumerate(batch.log_mel_lengths.tolist()):
        count = frames // 2
        theirs.config.max_source_positions = theirs.max_source_positions = count
        theirs.embed_positions = torch.nn.Embedding(count, positions.size(1), _weight=positions[:count])
        alone = batch.log_mel[row : row + 1, :, :frames]
        assert int(mask[row].sum()) == count
        assert distance(states[row, :count], theirs(alone).last_hidden_state[0]) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_the_folder_is_whole(name: str, weights: Callable[[str], Path]) -> None:
    """Its decoder, generation config and tokenizer transcribe a recording, with the right first tokens."""
    folder = weights(name)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    features = WhisperFeatureExtractor.from_pretrained(folder)(
        load_audio(DIGITS), sampling_rate=16_000, return_tensors="pt"
    )
    language = {} if name.endswith(".en") else {"language": "en"}
    ids = model.generate(features.input_features, **language)
    tokenizer = WhisperTokenizer.from_pretrained(folder)
    spoken = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert "".join(filter(str.isdigit, spoken)) == "17352"
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.convert_tokens_to_ids("<|startoftranscript|>") == model.config.decoder_start_token_id
    assert tokenizer.convert_tokens_to_ids("<|30.00|>") == model.config.vocab_size - 1
