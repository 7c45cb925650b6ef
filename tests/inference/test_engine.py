import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from helpers.paths import SHIPPED
from nota_cli.data.annotation import Row, read_annotation
from nota_cli.errors import DataError, NotaError
from nota_cli.inference.engine import Engine, Result, out_of_memory, spare_workers
from nota_cli.inference.long_audio import join
from nota_cli.inference.predict import predict
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.models.loading import load
from nota_cli.recipe.load import load_recipe

TEAMS = ["nota", "cv03", "nlp07", "cv16"]
SIZES = (1, 3, 8)


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Salmonn:
    return load(load_recipe(str(tiny_checkpoint), [f"checkpoint={tiny_checkpoint}"]), "cpu")


def run(engine: Engine, positions: list[int], seconds: list[float]) -> list[Result]:
    results: list[Result] = []
    engine.run(positions, seconds, results.extend)
    return results


@pytest.mark.parametrize("team", TEAMS)
def test_a_teams_texts_are_the_same_at_any_batch_size(
    team: str, golden_systems: Path, golden_recipe: Callable[..., Path]
) -> None:
    folder = golden_systems / team
    system = load(load_recipe(str(golden_recipe(folder))), "cpu")
    rows = read_annotation(folder / "manifest.json")
    expected = [row["text_beam4"].strip() for row in json.loads((folder / "expected.json").read_text())["rows"]]
    for size in SIZES:
        assert predict(system, rows, folder / "audio", workers=0, batch_size=size) == expected, size


def test_the_shipped_models_texts_are_the_same_at_any_batch_size_and_in_any_order() -> None:
    system = load(load_recipe(str(SHIPPED)).model_copy(update={"checkpoint": str(SHIPPED)}), "cpu")
    folder = SHIPPED / "samples"
    rows = [row for task in ("asr", "aac") for row in read_annotation(folder / f"{task}.json")]
    first = predict(system, rows, folder, workers=0, batch_size=1)
    assert all(first)
    for size in SIZES[1:]:
        assert predict(system, rows, folder, workers=0, batch_size=size) == first
    assert predict(system, rows[::-1], folder, workers=0, batch_size=3) == first[::-1]


def test_longest_clips_go_first_and_texts_come_back_in_order(model: Salmonn, clips: Path) -> None:
    rows = read_annotation(clips / "all.json")
    alone = [predict(model, [row], clips, workers=0)[0] for row in rows]
    sizes: list[int] = []
    heard: list[int] = []
    handle = model.speech_encoder.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[0].size(-1)))
    try:
        assert predict(model, rows, clips, workers=1, batch_size=2, on_batch=sizes.append) == alone
    finally:
        handle.remove()
    assert sizes == [2, 2, 1]
    assert heard == sorted(heard, reverse=True)
    assert heard[0] == 310  # 3.1 s, and not padded to 30


@pytest.mark.parametrize("where", ["cpu", "device"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    where: str, model: Salmonn, clips: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = model.recipe.audio.model_copy(update={"features": where})
    monkeypatch.setattr(model, "recipe", model.recipe.model_copy(update={"audio": audio}))
    rows = read_annotation(clips / "all.json")
    expected = predict(model, rows, clips, workers=0)

    def small_device(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7 GiB.\nMore words.")

    engine = Engine(model, rows, clips, workers=0, batch_size=5)
    handle = model.speech_encoder.register_forward_pre_hook(small_device)
    try:
        results = run(engine, [4, 2, 3, 0, 1], [3.1, 2.3, 1.7, 1.2, 0.4])
    finally:
        handle.remove()
    assert {result.row: result.text for result in results} == dict(enumerate(expected))
    assert (engine.tally.halvings, engine.tally.batch_size, engine.tally.rows) == (2, 1, 5)  # 5, 2, 1
    said = capsys.readouterr().err
    assert said.count("does not fit the memory and is halved") == 1
    assert "More words" not in said


def test_a_clip_that_does_not_fit_alone_is_named(model: Salmonn, clips: Path) -> None:
    def no_device(*_: object) -> None:
        raise MemoryError

    handle = model.speech_encoder.register_forward_pre_hook(no_device)
    try:
        with pytest.raises(NotaError, match=r"row 4 \(audio/c4.wav\) does not fit the memory of cpu even alone"):
            predict(model, read_annotation(clips / "all.json"), clips, workers=0)
    finally:
        handle.remove()


def test_what_is_no_lack_of_memory_is_not_taken_for_it(model: Salmonn, clips: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")

    handle = model.speech_encoder.register_forward_pre_hook(broken)
    try:
        with pytest.raises(RuntimeError, match="tensor a"):
            predict(model, read_annotation(clips / "all.json"), clips, workers=0)
    finally:
        handle.remove()


def test_torchs_own_word_for_a_cpu_without_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as told:
        torch.empty(1 << 55)
    assert out_of_memory(told.value)
    assert not out_of_memory(ValueError("out of memory"))


@pytest.fixture
def long_rows(tmp_path: Path) -> list[Row]:
    rng = np.random.default_rng(2)
    rows = []
    for index, seconds in enumerate([2.0, 62.5, 1.0, 31.0]):
        wave = np.sin(np.cumsum(rng.uniform(0.05, 0.6, size=10 * int(seconds)).repeat(1600)))
        soundfile.write(tmp_path / f"{index}.wav", (0.3 * wave).astype(np.float32), 16000)
        rows.append({"path": f"{index}.wav", "task": "asr"})
    (tmp_path / "long.json").write_text(json.dumps({"annotation": rows}))
    return read_annotation(tmp_path / "long.json")


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_windows_of_long_clips_are_joined_at_any_batch_size(
    size: int, model: Salmonn, long_rows: list[Row], tmp_path: Path
) -> None:
    seconds = [62.5, 31.0, 2.0, 1.0]
    engine = Engine(model, long_rows, tmp_path, workers=0, batch_size=size, chunk=True)
    results = {result.row: result.text for result in run(engine, [1, 3, 0, 2], seconds)}
    waves = [soundfile.read(tmp_path / f"{row}.wav", dtype="float32")[0] for row in range(4)]
    for row, windows in {0: [(0, 2)], 1: [(0, 30), (25, 55), (50, 62.5)], 2: [(0, 1)], 3: [(0, 30), (25, 31)]}.items():
        alone = []
        for number, (start, stop) in enumerate(windows):
            file = tmp_path / f"part{row}-{number}.wav"
            soundfile.write(file, waves[row][int(start * 16000) : int(stop * 16000)], 16000)
            part = Row(0, file.name, "asr", None, None, None, ())
            alone += predict(model, [part], tmp_path, workers=0)
        assert results[row] == (join(alone, "asr") if len(alone) > 1 else alone[0])
    assert engine.tally.rows == 4
    assert engine.tally.audio_seconds == pytest.approx(2 + 72.5 + 1 + 36)


def test_workers_take_no_core_from_a_model_that_needs_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = {2: (0, 1), 3: (0, 2), 4: (1, 3), 8: (2, 4), 64: (2, 4)}
    for count, (on_cpu, on_cuda) in cores.items():
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=count: set(range(count)))
        assert (spare_workers("cpu"), spare_workers("cuda")) == (on_cpu, on_cuda), count
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")  # processes that share the 64
    assert (spare_workers("cpu"), spare_workers("cuda")) == (1, 3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_whose_audio_is_bad_is_one_result_and_the_others_have_their_texts(
    workers: int, model: Salmonn, long_rows: list[Row], tmp_path: Path
) -> None:
    good = predict(model, long_rows[2:3], tmp_path, workers=0)
    (tmp_path / "0.wav").unlink()
    (tmp_path / "1.wav").write_bytes(b"")
    engine = Engine(model, long_rows[:3], tmp_path, workers=workers, batch_size=2, chunk=True)
    results = run(engine, [1, 0, 2], [62.5, 2.0, 1.0])
    assert sorted(result.row for result in results) == [0, 1, 2]
    told = {result.row: result.reason or "" for result in results}
    assert "no such file" in told[0]
    assert "0.wav (annotation row 0)" in told[0]
    assert "empty" in told[1]
    assert [result.text for result in results if result.reason is None] == good
    with pytest.raises(DataError, match="annotation row"):
        predict(model, long_rows, tmp_path, workers=workers)
