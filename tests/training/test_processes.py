"""Several processes that train together: as one does, sharded, killed, stuck, on two machines."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.training_ranks import PATIENCE, finish, free_port, saved_step, start
from nota_cli.data.annotation import read_annotation
from nota_cli.inference.predict import predict
from nota_cli.models.build import build
from nota_cli.recipe.load import load_recipe
from nota_cli.training.loop import train

EXACT = ["data.validation=[]", "train.batch_size=4", "connector.dropout=0", "train.autocast=false", "train.workers=0"]


@pytest.fixture(scope="module")
def one(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 50 steps in one process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nota_cli.training.loop.LOG_EVERY", 1)
        train(load_recipe(str(tiny_recipe), [*EXACT, "train.steps=50"]), folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "decoder" / "model.safetensors")}


def same_weights(folder: Path, other: Path) -> bool:
    first, second = weights(folder), weights(other)
    return set(first) == set(second) and all(torch.equal(first[name], tensor) for name, tensor in second.items())


def losses(folder: Path) -> list[tuple[float, ...]]:
    lines = (folder / "trainer" / "metrics.jsonl").read_text().splitlines()
    return [tuple(json.loads(line).get(name, 0.0) for name in ("step", "loss", "ctc", "label")) for line in lines]


def assert_close(found: list[tuple[float, ...]], expected: list[tuple[float, ...]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_two_processes_learn_what_one_does_and_one_goes_on_from_two(
    one: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*EXACT, "train.steps=50", "train.save_every=100"]
    finish(start(tiny_recipe, tmp_path / "two", settings, 2, stop_after=30), tmp_path / "two")
    monkeypatch.setattr("nota_cli.training.loop.LOG_EVERY", 1)
    train(load_recipe(str(tiny_recipe), settings), tmp_path / "two", resume=True)
    assert_close(losses(tmp_path / "two"), losses(one))


def test_fsdp_learns_what_one_process_does_resumes_exactly_and_loads_in_one(
    tiny_recipe: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moments, averaged weights, both kinds of clipping, accumulation, validation and the best checkpoint included."""
    settings = [
        *EXACT[1:],
        "train.validate_every=4",
        "train.best=validation_loss",
        "train.steps=4",
        "train.accumulation=2",
        "train.adaptive_clip=0.05",
        "train.clip_norm=0.5",
    ]
    settings += ["train.gradient_checkpointing=true"]
    whole, cut, launched = tmp_path / "whole", tmp_path / "cut", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    finish(start(tiny_recipe, whole, [*settings, "train.parallel=fsdp"], 2), whole)
    assert "2 processes with parts of each layer" in whole.with_name("whole.0").read_text()
    # The second time as `accelerate launch --use_fsdp --fsdp_version 2` sets it up.
    finish(start(tiny_recipe, cut, settings, 2, launched, stop_after=2), cut)
    assert "2 processes with parts of each layer" in cut.with_name("cut.0").read_text()
    monkeypatch.setattr("nota_cli.training.loop.LOG_EVERY", 1)
    finish(start(tiny_recipe, cut, settings, 2, launched, resume=True), cut)
    assert same_weights(cut, whole)
    train(load_recipe(str(tiny_recipe), settings), tmp_path / "one")
    assert_close(losses(whole), losses(tmp_path / "one"))
    figures = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, tmp_path / "one", cut / "best")]
    assert figures[0] == pytest.approx(figures[1], abs=1e-4)
    assert figures[2]["steps"] == 4
    rows = read_annotation(str(clips / "all.json"))
    found, expected = (
        predict(build(load_recipe(str(folder)).model_copy(update={"checkpoint": str(folder)})), rows, clips, workers=0)
        for folder in (whole, tmp_path / "one")
    )
    assert found == expected
    sharded, alone = weights(whole), weights(tmp_path / "one")
    for name, tensor in alone.items():
        torch.testing.assert_close(sharded[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_at_five_random_moments_ends_with_the_same_weights(
    processes: int, tiny_recipe: Path, tmp_path: Path
) -> None:
    """One process is killed without a warning; another one that shares its run ends by itself and says why."""
    seed = random.randrange(10**6)
    draw, folder = random.Random(seed), tmp_path / "killed"
    settings = [*EXACT, "train.steps=40", "train.save_every=1"]
    for turn in range(5):
        victim = draw.randrange(processes)
        kill = (victim, draw.randint(1, 3), draw.uniform(0, 0.05))
        ranks = start(tiny_recipe, folder, settings, processes, kill=kill, resume=turn > 0)
        killed = ranks.pop(victim)
        killed.join(PATIENCE)
        assert killed.exitcode == -signal.SIGKILL, f"seed {seed}"
        for other in ranks:
            other.join(PATIENCE)
            assert other.exitcode == 1, f"seed {seed}"
            said = "".join(file.read_text() for file in tmp_path.glob("killed.*"))
            assert "another process of this run is gone" in said
        assert not (folder / "recipe.yaml").exists(), f"seed {seed}"
    finish(start(tiny_recipe, folder, settings, processes, resume=True), folder)
    finish(start(tiny_recipe, tmp_path / "unbroken", settings, processes), tmp_path / "unbroken")
    assert same_weights(folder, tmp_path / "unbroken"), f"seed {seed}"


def test_a_process_that_is_stuck_ends_the_run_of_the_other(tiny_recipe: Path, tmp_path: Path) -> None:
    settings = [*EXACT, "train.steps=5000", "train.save_every=1", "train.timeout_minutes=0.5"]
    ranks = start(tiny_recipe, tmp_path / "run", settings, 2)
    while ranks[0].is_alive() and saved_step(tmp_path / "run") < 2:
        time.sleep(0.01)
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGSTOP)
    try:
        ranks[0].join(PATIENCE)
        assert ranks[0].exitcode == 1
        assert "has not answered for 0.5 minutes (train.timeout_minutes)" in (tmp_path / "run.0").read_text()
        assert saved_step(tmp_path / "run") >= 2
    finally:
        ranks[1].kill()
        ranks[1].join()


def test_two_machines_train_together(tiny_recipe: Path, tmp_path: Path) -> None:
    """As docs/training.md has it, both on this one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    given = [*EXACT, "train.steps=4"]
    program = ["-m", "nota_cli.cli", "train", str(tiny_recipe), "--out", str(tmp_path / "run")]
    program += [flag for setting in given for flag in ("--set", setting)]
    plain = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    nodes, said = [], [tmp_path / f"node.{rank}" for rank in range(2)]
    try:
        for rank, file in enumerate(said):
            with file.open("w") as out:
                words = [*command, "--node-rank", str(rank), "--local-addr", "127.0.0.1", *program]
                variables = {**plain, "ACCELERATE_USE_CPU": "true"}
                nodes.append(subprocess.Popen(words, env=variables, stdout=subprocess.DEVNULL, stderr=out))
        for node, file in zip(nodes, said, strict=True):
            assert node.wait(PATIENCE) == 0, file.read_text()
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    train(load_recipe(str(tiny_recipe), given), tmp_path / "alone")
    assert_close(losses(tmp_path / "run"), losses(tmp_path / "alone"))
