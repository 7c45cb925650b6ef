from collections.abc import Callable
from pathlib import Path

import pytest

from nota_cli.data.annotation import read_annotation
from nota_cli.data.tools.stats import group_rows, statistics


def test_counts(clips: Path) -> None:
    found = statistics(read_annotation(clips / "all.json"), clips, workers=2)
    table = {tuple(row[:2]): row[2:] for row in group_rows(found)}
    assert table[("asr", "audio")][0] == "2"
    assert table[("audiocaption_v2", "audio")][0] == "3"
    assert table[("all", "")][2] == "15"
    assert sorted(found.seconds) == pytest.approx([0.4, 1.2, 1.7, 2.3, 3.1], abs=0.01)
    assert found.vocabulary["rain"] == 3
    assert len(found.loudness) == 5
    assert all(-20 < level < -10 for level in found.loudness[:1])


def test_the_command_writes_tables_pictures_and_a_page(
    nota: Callable[..., int], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    assert nota("data", "stats", clips / "all.json", "--audio-root", clips, "--out", tmp_path / "s") == 0
    assert "different words" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        *("stats.md", "stats.html", "durations.png", "words.png", "loudness.png")
    }
    page = (tmp_path / "s" / "stats.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page.replace("http://www.w3.org", "")
    assert nota("data", "stats", clips / "all.json", "--audio-root", clips, "--no-loudness") == 0
