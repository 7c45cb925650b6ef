"""Names that are more likely a slip of the hand than something on the hub."""

from collections.abc import Callable
from pathlib import Path

import pytest


def test_a_misspelt_checkpoint_is_looked_for_here_not_on_the_hub(
    nota: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoints" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert nota("infer", "--checkpoint", "checkpoints/nope", "--task", "asr", "--out", "o.csv") == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "there is no checkpoint 'checkpoints/nope'" in message
    assert "mine" in message
    assert "hub" not in message
