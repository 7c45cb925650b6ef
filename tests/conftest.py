"""A tiny system with random weights and a few clips, built once a run: the real code paths at the smallest size."""

# ruff: noqa: E402
import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run two at a time, and none has work enough for two cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # both are read when torch is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from helpers.paths import GOLDEN, SHARED

TINY = {
    "audio": {"pad": "clip"},
    "speech_encoder": {
        "train": True,
        "config": {
            "num_mel_bins": 80,
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "max_source_positions": 1500,
        },
    },
    "audio_encoder": {
        "kind": "beats",
        "train": True,
        "config": {
            "embed_dim": 32,
            "encoder_layers": 1,
            "encoder_embed_dim": 32,
            "encoder_ffn_embed_dim": 64,
            "encoder_attention_heads": 2,
            "conv_pos": 16,
            "conv_pos_groups": 4,
            "num_buckets": 32,
            "max_distance": 128,
        },
    },
    "connector": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 64},
    "decoder": {
        "train": True,
        "config": {
            "model_type": "gemma2",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
        },
    },
    "generate": {"beams": 1, "max_new_tokens": 6, "batch_size": 4},
    "train": {
        "steps": 6,
        "batch_size": 3,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
        "ctc_weight": 0.3,
        "label_weight": 0.3,
        "average": 0.9,
        "validate_every": 3,
        "save_every": 2,
        "workers": 0,
        "augment": {
            "speed": 0.1,
            "gain_db": 6,
            "noise": 0.5,
            "roll": 0.5,
            "tone": 6,
            "mask_time": 10,
            "mask_frequency": 8,
        },
    },
}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real recordings and golden figures beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the folder {SHARED} with real recordings")
    return SHARED


@pytest.fixture(scope="session")
def golden_systems() -> Path:
    """Folders of the golden systems: all six recordings of each, or the part of them that every clone holds."""
    return GOLDEN


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `audio/*.wav` of several rates and lengths, and annotation files over them."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "audio").mkdir()
    rng = np.random.default_rng(7)
    rows = []
    for index, (rate, seconds) in enumerate([(16000, 1.2), (8000, 0.4), (44100, 2.3), (16000, 1.7), (22050, 3.1)]):
        wave = 0.3 * np.sin(2 * np.pi * (200 + 150 * index) * np.arange(int(rate * seconds)) / rate)
        name = f"audio/c{index}.wav"
        soundfile.write(folder / name, wave + 0.02 * rng.standard_normal(len(wave)), rate)
        task, label = ("asr", None) if index % 2 else ("audiocaption_v2", "rain")
        text = "three seven one" if label is None else "rain falls outside"
        row = {"path": name, "text": text, "task": task, "testset_id": f"test{index:04d}", "speaker": "s"}
        rows.append(row if label is None else {**row, "label": label})
    (folder / "all.json").write_text(json.dumps({"annotation": rows}))
    (folder / "aac.json").write_text(json.dumps({"annotation": [row for row in rows if "label" in row]}))
    (folder / "asr.json").write_text(json.dumps({"annotation": [row for row in rows if row["task"] == "asr"]}))
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file for a system of some ten thousand weights, with training and validation data."""
    import yaml

    from nota_cli.data.tokenizer import build_word_tokenizer
    from nota_cli.prompts import Query, wrap
    from nota_cli.recipe.prompts import Prompts

    folder = tmp_path_factory.mktemp("recipe")
    prompts = Prompts()
    texts = [part for task in prompts.tasks for part in wrap(prompts, Query(task, "what is it"))]
    build_word_tokenizer([*texts, "one two three seven", "rain falls outside"], folder / "tokenizer")
    source = {"annotation": str(clips / "all.json"), "audio_root": str(clips)}
    digits = {"annotation": str(clips / "asr.json"), "audio_root": str(clips), "join": 3, "weight": 2.0}
    mixed = {**source, "annotation": str(clips / "aac.json"), "mix_same_label": 0.5, "crop_seconds": 2.0}
    background = {"background": str(clips / "all.json"), "background_root": str(clips)}
    recipe = {
        **TINY,
        "name": "random",
        "decoder": {**TINY["decoder"], "tokenizer": str(folder / "tokenizer")},
        "data": {"train": [mixed, {**digits, **background}], "validation": [source]},
    }
    path = folder / "random.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of that system, weights random."""
    import torch

    from nota_cli.models.build import build
    from nota_cli.recipe.load import load_recipe

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    build(load_recipe(str(tiny_recipe))).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported_tiny(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The shipped model as `nota export` writes it, made once for all processes of a run; not to be changed.

    Beside it lies `report.json`, what the command printed.
    """
    own = worker_id == "master"
    folder = tmp_path_factory.mktemp("exported") if own else tmp_path_factory.getbasetemp().parent / "exported"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "report.json").exists():
            options = ["export", "tiny", "--out", str(folder / "tiny"), "--clips", "6", "--json"]
            command = [sys.executable, "-m", "nota_cli.cli", *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (folder / "report.json").write_text(done.stdout)
    return folder / "tiny"


@pytest.fixture
def golden_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe that points at a golden system; its values are read off the system's own files."""
    import torch
    import yaml

    def write(folder: Path, **changes: object) -> Path:
        expected = json.loads((folder / "expected.json").read_text())
        names = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
        audio = {"kind": "beats", "path": str(folder / "beats.pt")}
        if (folder / "ced.pt").exists():
            settings = {"heads": 4, "scaling": "beats", "token_order": "frequency"}
            audio = {"kind": "ced", "path": str(folder / "ced.pt"), **settings}
        recipe = {
            "checkpoint": str(folder / "checkpoint.pth"),
            "speech_encoder": {"path": str(folder / "whisper")},
            "audio_encoder": audio,
            "connector": expected["qformer"],
            "decoder": {"path": str(folder / "llm"), "pad_token": "[PAD]"},
            "lora": {
                "rank": expected["lora"]["r"],
                "alpha": expected["lora"]["alpha"],
                "targets": sorted({name.split(".lora_A")[0].split(".")[-1] for name in names if ".lora_A" in name}),
            },
            "prompts": {"end_symbol": expected["end_sym"]},
            "generate": {"max_new_tokens": expected["max_new_tokens"]},
        }
        path = tmp_path / "golden.yaml"
        path.write_text(yaml.safe_dump({**recipe, **changes}))
        return path

    return write


@pytest.fixture
def nota(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command line in this process; returns the exit status."""
    from nota_cli.cli import main

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["nota", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run


@pytest.fixture
def exact_fft() -> Callable[[], AbstractContextManager[None]]:
    """Inside, Fourier transforms are computed in double precision.

    Where a clip holds nothing, as above 4 kHz in one that was recorded at 8 kHz, a spectrum in float32 is the rounding
    of the processor's own transform, and its logarithm is what an encoder sees. How far the states are from those of
    an exact transform tells how near figures from another processor can be.
    """

    @contextmanager
    def patched() -> Iterator[None]:
        rfft, stft = torch.fft.rfft, torch.stft
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.fft, "rfft", lambda x, **more: rfft(x.double(), **more).to(torch.complex64))
            patch.setattr(
                torch,
                "stft",
                lambda x, *sizes, window, **more: stft(x.double(), *sizes, window=window.double(), **more).to(
                    torch.complex64
                ),
            )
            yield

    return patched
