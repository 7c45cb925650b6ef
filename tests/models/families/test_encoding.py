from pathlib import Path

import numpy as np
import pytest
import torch

from nota_cli.features.batch import extract
from nota_cli.models.families import salmonn
from nota_cli.models.families.salmonn import Encoded, neighbours
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_recipe

SECONDS = (3.1, 2.0, 1.9, 1.0, 1.0)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1], [(0, 1)]),
        ([9], [(0, 1)]),
        ([3, 2, 1], [(0, 2), (2, 3)]),
        ([1, 2, 3, 3], [(0, 2), (2, 4)]),
        ([7, 7, 2, 2, 2, 1], [(0, 1), (1, 2), (2, 5), (5, 6)]),
    ],
)
def test_parts_are_neighbours_of_no_more_than_so_many_frames(lengths: list[int], expected: list[tuple]) -> None:
    assert [(part.start, part.stop) for part in neighbours(lengths, 6)] == expected


@pytest.mark.parametrize("most", [1, 350, 500])
def test_parts_are_the_whole(most: int, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(load_recipe(str(tiny_checkpoint), [f"checkpoint={tiny_checkpoint}"]), "cpu")
    rng = np.random.default_rng(0)
    waves = [rng.normal(0, 0.1, round(16_000 * seconds)).astype(np.float32) for seconds in SECONDS]
    features = extract(waves, 80, pad="clip")
    assert model.encode_batch(features) is features  # little enough to go at once
    monkeypatch.setattr(salmonn, "MOST_FRAMES", most)
    with torch.inference_mode():
        whole = model.encode(features)
    parts = model.encode_batch(features)
    assert isinstance(parts, Encoded)
    for name in ("mask", "speech_mask", "audio_mask"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    for name, mask in [("embeds", "mask"), ("speech_states", "speech_mask"), ("audio_states", "audio_mask")]:
        real = getattr(whole, mask)
        torch.testing.assert_close(getattr(parts, name)[real], getattr(whole, name)[real], atol=1e-5, rtol=1e-4)
