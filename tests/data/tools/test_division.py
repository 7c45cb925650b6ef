import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from nota_cli.data.tools.division import merge, sample, split
from nota_cli.errors import DataError, UsageError


def rows(speakers: int = 30, each: int = 4) -> list[dict]:
    found = []
    for speaker in range(speakers):
        for take in range(each):
            found.append({"path": f"talk/{speaker}-{take}.wav", "task": "asr", "text": "x", "speaker": f"s{speaker}"})
    found += [{"path": f"sounds/{n}.wav", "task": "audiocaption", "text": "y"} for n in range(60)]
    return found


SHARES = {"train": 0.8, "dev": 0.1, "test": 0.1}


def test_speakers_stay_together_and_proportions_are_kept() -> None:
    parts = split(rows(), SHARES, seed=3)
    assert sum(map(len, parts.values())) == 180
    homes = {}
    for name, part in parts.items():
        for row in part:
            if "speaker" in row:
                assert homes.setdefault(row["speaker"], name) == name
    for name, share in SHARES.items():
        tasks = Counter(row["task"] for row in parts[name])
        assert tasks["asr"] == pytest.approx(120 * share, abs=4)
        assert tasks["audiocaption"] == pytest.approx(60 * share, abs=1)
    assert parts["train"] == [row for row in rows() if row in parts["train"]]  # in the annotation's order


def test_a_seed_is_a_split() -> None:
    assert split(rows(), SHARES, seed=3) == split(rows(), SHARES, seed=3)
    assert split(rows(), SHARES, seed=3) != split(rows(), SHARES, seed=4)


def test_no_part_is_empty() -> None:
    parts = split(rows(speakers=3)[:12], SHARES)
    assert all(parts.values())
    with pytest.raises(DataError, match="2 speakers or clips cannot be divided into 3 parts"):
        split(rows(speakers=2)[:8], SHARES)
    with pytest.raises(UsageError):
        split(rows(), {"train": 0.0})


def test_a_sample_keeps_proportions() -> None:
    drawn = sample(rows(), 30, seed=1)
    assert Counter(row["task"] for row in drawn) == {"asr": 20, "audiocaption": 10}
    assert drawn == sample(rows(), 30, seed=1) != sample(rows(), 30, seed=2)
    assert sample(rows(), 180) == rows()
    with pytest.raises(UsageError, match="has 180 rows"):
        sample(rows(), 181)


def test_merged_paths_lie_below_one_root() -> None:
    speech = [{"path": "a.wav", "expand_wav": ["b.wav"], "testset_id": "test0000"}]
    both = merge([(speech, "speech"), ([{"path": "c.wav", "testset_id": "test0000"}], "")])
    assert both == [
        {"path": "speech/a.wav", "expand_wav": ["speech/b.wav"], "testset_id": "test0000"},
        {"path": "c.wav", "testset_id": "test0001"},
    ]


def test_the_commands(nota: Callable[..., int], tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"annotation": rows()}))
    assert nota("data", "split", file, "train=8", "dev=1", "--out", tmp_path / "parts") == 0
    sizes = [
        len(json.loads((tmp_path / "parts" / f"{name}.json").read_text())["annotation"]) for name in ("train", "dev")
    ]
    assert sum(sizes) == 180
    assert nota("data", "sample", file, "--count", 10, "--out", tmp_path / "few.json") == 0
    assert nota("data", "merge", tmp_path / "few.json", f"{file}=far", "--out", tmp_path / "more.json") == 0
    assert len(json.loads((tmp_path / "more.json").read_text())["annotation"]) == 190
    assert nota("data", "split", file, "train", "--out", tmp_path / "parts") == 2
    assert nota("data", "sample", file, "--count", 10, "--out", file) == 2
