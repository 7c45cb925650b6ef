"""States of frozen encoders on disk: the same losses as without, and nothing wrong is ever read."""

import json
from pathlib import Path

import pytest
import torch

from nota_cli.errors import RecipeError
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe
from nota_cli.recipe.training import Augment
from nota_cli.training.loop import train

FROZEN = [
    "speech_encoder.train=false",
    "audio_encoder.train=false",
    *(f"train.augment.{name}=0" for name in Augment.model_fields),
    "train.ctc_weight=0",
    "train.alignment_weight=0.3",
    "train.steps=6",
    "data.validation=[]",
]


@pytest.fixture
def losses(tiny_recipe: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Train with settings; returns the losses of each step, and of how many clips the speech encoder was run."""
    monkeypatch.setattr("nota_cli.training.loop.LOG_EVERY", 1)
    runs = iter(range(100))
    data = f"data.train=[{{annotation: {clips / 'all.json'}, audio_root: {clips}}}]"

    def run(*settings: str, seed: int = 0) -> tuple[list[float], int]:
        from nota_cli.models.encoders.whisper import WhisperEncoder

        encoded: list[int] = []
        forward = WhisperEncoder.forward

        def counted(self: WhisperEncoder, log_mel: torch.Tensor, lengths: torch.Tensor | None = None):
            encoded.append(len(log_mel))
            return forward(self, log_mel, lengths)

        folder = tmp_path / f"run{next(runs)}"
        with monkeypatch.context() as patch:
            patch.setattr(WhisperEncoder, "forward", counted)
            train(load_recipe(str(tiny_recipe), [*FROZEN, data, f"train.seed={seed}", *settings]), folder)
        lines = (folder / "trainer" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines], sum(encoded)

    return run


def test_each_clip_is_encoded_once_and_the_losses_are_the_same(losses, tmp_path: Path) -> None:
    plain, every_time = losses()
    cached, once = losses(f"train.cache={tmp_path / 'cache'}")
    again, never = losses(f"train.cache={tmp_path / 'cache'}")
    assert cached == pytest.approx(plain, rel=2e-3)
    assert again == cached
    assert (every_time, once, never) == (18, 5, 0)
    resumed, rest = losses(f"train.cache={tmp_path / 'cache'}", "train.workers=1")
    assert resumed == cached
    assert rest == 0


def test_a_damaged_file_is_noticed_and_made_again(losses, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = f"train.cache={tmp_path / 'cache'}"
    expected, _ = losses(cache)
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1000] ^= 1
    shard.write_bytes(data)
    found, encoded = losses(cache)
    assert (found, encoded) == (expected, 5)
    assert "is damaged" in capsys.readouterr().err
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:500])
    assert losses(cache) == (expected, 5)


def test_other_encoders_and_other_audio_have_states_of_their_own(losses, tmp_path: Path) -> None:
    cache = f"train.cache={tmp_path / 'cache'}"
    losses(cache)
    assert losses(cache, seed=1)[1] == 5  # other random weights
    assert losses(cache, "audio.max_seconds=2")[1] == 5
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_clips_that_change_are_refused_with_every_reason(tiny_recipe: Path, clips: Path, tmp_path: Path) -> None:
    source = {"annotation": str(clips / "asr.json"), "audio_root": str(clips), "join": 2}
    settings = [f"data.train={json.dumps([source])}", f"train.cache={tmp_path}"]
    recipe: Recipe = load_recipe(str(tiny_recipe), settings)
    reasons = (
        r"(?s)speech_encoder\.train.*audio_encoder\.train.*augment\.speed.*augment\.mask_time.*data\.train\.0\.join"
    )
    with pytest.raises(RecipeError, match=reasons):
        train(recipe, tmp_path / "run")
