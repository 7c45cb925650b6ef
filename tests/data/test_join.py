"""Clips that are joined for training end before the longest clip that the model takes."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nota_cli.data.batches import TrainingBatches
from nota_cli.features.batch import FeatureSpec
from nota_cli.recipe.training import Augment, Source

SECONDS = {"one": 2.0, "two": 3.0, "three": 4.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of one speaker, each a number's length in seconds."""
    folder = tmp_path_factory.mktemp("join")
    rows = []
    for text, seconds in SECONDS.items():
        soundfile.write(folder / f"{text}.wav", np.full(int(16_000 * seconds), 0.1), 16_000)
        rows.append({"path": f"{text}.wav", "text": text, "task": "asr", "speaker": "a"})
    (folder / "rows.json").write_text(json.dumps({"annotation": rows}))
    return folder


@pytest.mark.parametrize(("limit", "most"), [(5.0, 2), (7.0, 3), (30.0, 4)])
@pytest.mark.parametrize("gap", [0.0, 0.3])
def test_a_text_never_says_more_than_is_heard(limit: float, most: int, gap: float, corpus: Path) -> None:
    source = Source.model_validate(
        {"annotation": str(corpus / "rows.json"), "audio_root": str(corpus), "join": 4, "gap_seconds": [gap, gap]}
    )
    batches = TrainingBatches([source], FeatureSpec(80, None, "clip", limit), Augment(), 1, seed=0)
    counts = set()
    for index in range(60):
        batch = batches[index]
        words = batch.texts[0].split()
        heard = int(batch.features.log_mel_lengths[0]) / 100
        whole = sum(SECONDS[word] for word in words) + gap * (len(words) + 1)
        speech = whole - gap  # the silence behind the last word may be cut
        assert speech - 0.02 <= heard <= min(limit, whole) + 0.02, (words, heard)
        counts.add(len(words))
    assert max(counts) == most if gap == 0 else max(counts) <= most
    assert min(counts) == 1
