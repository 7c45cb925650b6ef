"""Steps of a run: its batches by length resumed exactly, and shared by several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.ranks import environment
from nota_cli.recipe.load import load_recipe
from nota_cli.training.loop import train

EXACT = ["data.validation=[]", "train.steps=50", "train.batch_size=4", "connector.dropout=0", "train.autocast=false"]
EXACT += ["train.workers=0", "train.save_every=10"]
SHARED = """
import sys
from pathlib import Path
import nota_cli.training.loop as loop
from nota_cli.recipe.load import load_recipe
loop.LOG_EVERY = 1
stop = int(sys.argv[3]) or None
loop.train(load_recipe(sys.argv[1], sys.argv[5:]), Path(sys.argv[2]), stop_after=stop, resume=sys.argv[4] == "resume")
"""


@pytest.mark.parametrize("way", [["train.buckets=3"], ["train.buckets=3", "train.batch_seconds=7"]])
def test_batches_by_length_are_resumed_exactly(way: list[str], tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny_recipe), ["data.validation=[]", "train.accumulation=2", *way])
    train(recipe, tmp_path / "unbroken")
    train(recipe, tmp_path / "cut", stop_after=2)
    train(recipe, tmp_path / "cut", resume=True, stop_after=1)
    train(recipe, tmp_path / "cut", resume=True)
    for name in ("model.safetensors", "decoder/model.safetensors"):
        expected, found = (load_file(tmp_path / run / name) for run in ("unbroken", "cut"))
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run(recipe: Path, folder: Path, processes: int, port: int, *, stop: int = 0, resume: bool = False) -> None:
    """Train with so many processes that share each batch."""
    command = [sys.executable, "-c", SHARED, str(recipe), str(folder), str(stop), "resume" if resume else "", *EXACT]
    plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    ranks = [
        subprocess.Popen(
            command,
            env={
                **plain,
                "ACCELERATE_USE_CPU": "true",
                **(environment(rank, processes, port) if processes > 1 else {}),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=120)
        assert rank.returncode == 0, said


def losses(folder: Path) -> list[tuple[float, ...]]:
    lines = (folder / "trainer" / "metrics.jsonl").read_text().splitlines()
    return [tuple(json.loads(line).get(name, 0.0) for name in ("step", "loss", "ctc", "label")) for line in lines]


def test_two_processes_learn_what_one_does_and_one_goes_on_from_two(
    tiny_recipe: Path, tmp_path: Path, port: int
) -> None:
    run(tiny_recipe, tmp_path / "one", 1, port)
    run(tiny_recipe, tmp_path / "two", 2, port, stop=30)
    run(tiny_recipe, tmp_path / "two", 1, port, resume=True)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 50
    for expected, found in zip(one, two, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
