"""The measuring itself: known sleeps, known bytes, known operations."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from helpers import sleepy_model
from helpers.paths import REPOSITORY
from helpers.sleepy_model import CPU, QUICK, SleepyModel
from nota_cli.efficiency import timing
from nota_cli.efficiency.floor import bytes_per_token, operations
from nota_cli.efficiency.measure import Settings, measure_model
from nota_cli.efficiency.memory import ResidentMeter
from nota_cli.efficiency.timing import Round, Times
from nota_cli.errors import NotaError
from nota_cli.models.build import build
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe


@pytest.fixture(autouse=True)
def quick_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines' rates take seconds to measure well, and are of no matter here."""
    monkeypatch.setattr("nota_cli.efficiency.floor.BUFFER_BYTES", {"cpu": 2**20})
    monkeypatch.setattr("nota_cli.efficiency.floor.LARGEST_MATRIX", {"cpu": 256})


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that little but a model's sleeps moves on: on a busy machine, sleepers wake late."""

    class Time:
        now = 0.0

        def sleep(self, seconds: float) -> None:
            self.now += seconds

        def perf_counter(self) -> float:
            self.now += 1e-10  # rates are measured, too, by dividing
            return self.now

    moving = Time()
    monkeypatch.setattr(sleepy_model, "time", moving)
    monkeypatch.setattr(timing, "time", moving)


@pytest.mark.usefixtures("still_clock")
def test_known_sleeps_are_reported_as_what_they_are() -> None:
    report = measure_model(SleepyModel(speech=0.06, audio=0.04, connector=0.03, prefill=0.05, step=0.02), QUICK)
    expected = {"speech_encoder": 0.06, "audio_encoder": 0.04, "connector": 0.03, "prefill": 0.05}
    expected |= {"ttft_from_features": 0.18, "ttft_from_waveform": 0.18, "first_step": 0.02, "tpot": 0.02}
    assert {name: report["seconds"][name]["median"] for name in expected} == pytest.approx(expected)
    assert (report["ttft_from_features_s"], report["tpot_s"]) == (pytest.approx(0.18), pytest.approx(0.02))
    assert {name: report["seconds"][name]["count"] for name in ("prefill", "first_step", "tpot")} == {
        "prefill": 5,
        "first_step": 5,
        "tpot": 20,
    }


def test_the_clock_is_that_of_the_wall() -> None:
    report = measure_model(SleepyModel(speech=0.02, prefill=0.03, step=0.01), QUICK)
    assert report["seconds"]["speech_encoder"]["p10"] >= 0.02
    assert report["seconds"]["prefill"]["p10"] >= 0.03
    assert report["tpot_s"] >= 0.01
    assert report["ttft_from_waveform_s"] > report["ttft_from_features_s"] >= 0.05


@pytest.mark.usefixtures("still_clock")
def test_the_organisers_protocol_takes_one_step_and_leaves_the_log_mel_out() -> None:
    model = SleepyModel(speech=0.06, prefill=0.05, step=0.04)
    report = measure_model(model, Settings("organisers", 1.0, tokens=30, rounds=4, warm_up=1))
    assert report["seconds"]["tpot"]["count"] == report["rounds"] == 4
    assert report["tpot_s"] == pytest.approx(0.04)
    assert report["ttft_s"] == pytest.approx(0.11)
    assert report["seconds"]["filter_bank"]["count"] == 4
    assert "features" not in report["seconds"]
    assert "loading included" in report["peak_memory_is"]


def test_time_over_ends_the_rounds_but_never_before_three() -> None:
    report = measure_model(
        SleepyModel(prefill=0.02, step=0.02), Settings("synced", 1.0, tokens=5, rounds=50, warm_up=9, seconds=0)
    )
    assert report["rounds"] == report["seconds"]["ttft_from_features"]["count"] == 3


MEMORY_SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
from helpers.sleepy_model import CPU, QUICK, SleepyModel
from nota_cli.efficiency import floor, memory
from nota_cli.efficiency.measure import measure_model

floor.BUFFER_BYTES, floor.LARGEST_MATRIX = dict(cpu=2**20), dict(cpu=256)
SleepyModel(weights=1.0)  # torch's first tensor brings code into memory
reports = []
for clear_refs in (memory.CLEAR_REFS, memory.Path("/nowhere/clear_refs")):
    memory.CLEAR_REFS = clear_refs
    before = memory.meter(CPU).now()
    model = SleepyModel(prefill=0.2, weights=500.0, activations=1000.0)
    report = measure_model(model, QUICK)
    reports.append(dict(report, before=before / 1e6))
    del model
print(json.dumps(reports))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_a_known_allocation_is_reported_within_one_percent() -> None:
    script = MEMORY_SCRIPT.format(tests=str(REPOSITORY / "tests"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    for report in reports:
        assert report["speech_encoder_mb"] == 500.0
        assert report["memory_mb"]["after_loading"] - report["before"] == pytest.approx(500.0, rel=0.01)
        assert report["memory_mb"]["activations_and_cache"] == pytest.approx(1000.0, rel=0.01)
        assert report["peak_memory_is"].startswith("resident set of the process")
    assert "sampled" in reports[1]["peak_memory_is"]


def test_the_peak_of_the_resident_set_can_be_forgotten() -> None:
    gauge = ResidentMeter()
    if gauge.now() is None:
        pytest.skip("needs /proc")
    block = torch.ones(25_000_000)
    gauge.restart()
    with_block = gauge.peak()
    del block
    gauge.restart()
    assert with_block - gauge.peak() == pytest.approx(100e6, rel=0.1)


@pytest.mark.parametrize("fails", ["prefill", "step"])
def test_out_of_memory_tells_the_parts_and_the_largest(fails: str) -> None:
    with pytest.raises(NotaError) as caught:
        measure_model(SleepyModel(weights=4.0, fails=fails), QUICK)
    message = str(caught.value)
    assert "out of memory on cpu" in message
    assert "speech_encoder, MB" in message
    assert "4.0" in message
    assert "largest part is the speech encoder" in message


def test_out_of_memory_while_loading_is_told_from_the_recipe(
    nota: Callable[..., int],
    tiny_recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(recipe: Recipe, device: str, *purpose: str, **how: object) -> nn.Module:
        if device != "meta":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return build(recipe, device, *purpose, **how)

    monkeypatch.setattr("nota_cli.efficiency.measure.build", full)
    assert nota("efficiency", "--recipe", tiny_recipe) == 1
    message = capsys.readouterr().err
    assert "while loading" in message
    assert "The largest part is the decoder" in message
    assert "Traceback" not in message


@pytest.mark.parametrize("pad", ["30s", "clip"])
def test_operations_are_those_of_the_shapes(tiny_recipe: Path, pad: str) -> None:
    recipe = load_recipe(str(tiny_recipe), [f"audio.pad={pad}", "lora={targets: [q_proj, v_proj]}"])
    model = build(recipe)
    clip = Round(model, CPU, Settings(audio_seconds=2.0), Times())
    counts = operations(model, clip.runtime, clip.prefill)
    states, width, inner = (1500 if pad == "30s" else 100), 32, 64
    convolutions = 2 * 3 * width * (80 * 2 * states + width * states)
    layer = 2 * states * (4 * width**2 + 2 * width * inner) + 4 * states**2 * width
    assert counts["speech_encoder"] == convolutions + layer
    assert set(counts) == {"speech_encoder", "audio_encoder", "connector", "prefill"}


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_moves_the_embedding_table_only_where_it_is_the_head(tiny_recipe: Path, tied: bool) -> None:
    settings = [f"decoder.config.tie_word_embeddings={str(tied).lower()}", "lora={targets: [q_proj]}"]
    model = build(load_recipe(str(tiny_recipe), settings))
    table = model.decoder.base.get_input_embeddings().weight.nbytes
    tensors = {id(tensor): tensor.nbytes for tensor in [*model.decoder.parameters(), *model.decoder.buffers()]}
    assert bytes_per_token(model) == sum(tensors.values()) - (0 if tied else table)


def test_measurements_are_written_shown_and_compared(
    nota: Callable[..., int], tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    flags = ["--rounds", 2, "--tokens", 2, "--audio-seconds", 1, "--recipe", tiny_recipe]
    assert nota("efficiency", *flags, "--out", first) == 0
    shown = capsys.readouterr()
    for label in ("TTFT from waveform", "TPOT", "x floor", "peak while running", "resident set of the process"):
        assert label in shown.out
    assert "2 rounds counted" in shown.err
    assert nota("efficiency", *flags, "--protocol", "organisers", "--out", second, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(second.read_text())
    both = ["--compare", first, "--compare", second]
    assert nota("efficiency", *both) == 0
    shown = capsys.readouterr()
    assert "differ in protocol" in shown.err
    assert "ratio" in shown.out
    assert nota("efficiency", *both, "--json") == 0
    compared = json.loads(capsys.readouterr().out)
    weights = next(row for row in compared["rows"] if row["figure"] == "all weights")
    assert compared["names"] == ["first", "second"]
    assert weights["ratios"] == [1.0]


def test_wrong_use_of_compare_and_protocol_is_one_message(
    nota: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert nota("efficiency", "--compare", bad) == 2
    assert nota("efficiency", "--compare", bad, "--compare", bad) == 1
    assert "bad.json: not a measurement" in capsys.readouterr().err
    assert nota("efficiency", "--protocol", "theirs") == 2
