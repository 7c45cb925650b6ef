"""Exports answer as their torch sources do, and a damaged one says what is wrong with it."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SYSTEMS = REPOSITORY / "tests" / "golden" / "systems"


def texts(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def exported(exported_tiny: Path) -> Path:
    """The shipped model, as `nota export` writes it."""
    report = json.loads((exported_tiny.parent / "report.json").read_text())
    assert report["parity"]["same_texts"] == {"1": 6, "6": 6}
    files = [path for path in exported_tiny.iterdir() if path.name not in ("manifest.json", "README.md")]
    assert report["bytes"] == sum(path.stat().st_size for path in files)
    card = (exported_tiny / "README.md").read_text()
    assert "texts equal 6 at batch 1, 6 at batch 6" in card
    assert "| connector |" in card
    return exported_tiny


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "copy"))


@pytest.mark.parametrize("batch_size", [1, 6])
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["generate.beams=4"],
        ["generate.beams=4", "generate.length_penalty=2.0", "generate.repetition_penalty=1.3"],
        ["generate.repetition_penalty=1.7", "generate.loop_guard=penalise"],
        ["generate.sample=true", "generate.temperature=1.5", "generate.top_p=0.9", "generate.top_k=20"],
    ],
    ids=["greedy", "beam 4", "beam 4, penalties", "penalty", "sampling"],
)
def test_texts_are_those_of_torch(
    exported: Path, settings: list[str], batch_size: int, tmp_path: Path, nota: Callable[..., int]
) -> None:
    samples = REPOSITORY / "checkpoints" / "tiny" / "samples"
    data = ["--annotation", samples / "asr.json", "--task", "asr", "--batch-size", batch_size]
    changes = [word for setting in settings for word in ("--set", setting)]
    for name, recipe in (("torch", "tiny"), ("onnx", exported)):
        assert nota("infer", "--recipe", recipe, *data, *changes, "--out", tmp_path / f"{name}.csv") == 0
    assert texts(tmp_path / "onnx.csv") == texts(tmp_path / "torch.csv")


@pytest.mark.parametrize("team", ["nlp07"])
def test_a_teams_system_gives_the_teams_texts(
    team: str, tmp_path: Path, golden_recipe: Callable[..., Path], nota: Callable[..., int]
) -> None:
    folder, out = SYSTEMS / team, tmp_path / "export"
    data = ["--annotation", folder / "manifest.json", "--audio-root", folder / "audio"]
    assert nota("export", golden_recipe(folder), "--out", out, *data) == 0
    rows = json.loads((folder / "expected.json").read_text())["rows"]
    for beams in (1, 4):
        for batch_size in (1, 6):
            search = ["--set", f"generate.beams={beams}", "--batch-size", batch_size]
            csv_path = tmp_path / f"{beams}-{batch_size}.csv"
            assert nota("infer", "--recipe", out, *data, *search, "--out", csv_path) == 0
            assert texts(csv_path) == [row[f"text_beam{beams}"].strip() for row in rows]


def test_nothing_of_torch_is_imported(exported: Path, tmp_path: Path) -> None:
    samples = REPOSITORY / "checkpoints" / "tiny" / "samples"
    script = (
        "import sys\nfrom nota_cli.cli import app\n"
        f"app(['infer', '--recipe', {str(exported)!r}, '--task', 'aac', '--annotation', {str(samples / 'aac.json')!r}, "
        f"'--out', {str(tmp_path / 'out.csv')!r}], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'peft', 'onnx', 'onnxscript'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(texts(tmp_path / "out.csv")) == 6


def test_a_cut_graph_is_named(copied: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    graph = copied / "decoder.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    assert nota("infer", "--recipe", copied, "--task", "asr", REPOSITORY / "checkpoints/tiny/samples/audio") == 1
    assert "decoder.onnx" in (message := capsys.readouterr().err)
    assert "cut off or damaged" in " ".join(message.split())


def complaint(folder: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> str:
    """What a run of a damaged export says."""
    capsys.readouterr()
    audio = REPOSITORY / "checkpoints" / "tiny" / "samples" / "audio" / "rain.flac"
    assert nota("infer", "--recipe", folder, "--task", "aac", audio, "--out", folder.parent / "out.csv") == 1
    return " ".join(capsys.readouterr().err.split())


def test_a_missing_graph_is_named(copied: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    (copied / "connector.onnx").unlink()
    assert "connector.onnx: missing from the export" in complaint(copied, nota, capsys)


def test_one_changed_byte_is_noticed(
    copied: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    graph = bytearray((copied / "speech_encoder.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (copied / "speech_encoder.onnx").write_bytes(graph)
    assert "speech_encoder.onnx" in complaint(copied, nota, capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 99}, "format 99, and this nota reads 1"), ({"front": 3}, "not a manifest. Export again. - front")],
)
def test_a_manifest_of_another_version_or_shape_is_refused(
    copied: Path,
    change: dict[str, object],
    message: str,
    nota: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = copied / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert message in complaint(copied, nota, capsys)


def test_an_opset_that_onnxruntime_does_not_know_is_told_from_damage(
    copied: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    graph = onnx.load(copied / "decoder.onnx")
    graph.opset_import[0].version = 999
    onnx.save(graph, copied / "decoder.onnx")
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    data = (copied / "decoder.onnx").read_bytes()
    manifest["files"]["decoder.onnx"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["opset"] = 999
    path.write_text(json.dumps(manifest))
    assert "cannot load it, though it is as exported (opset 999" in complaint(copied, nota, capsys)


def test_a_used_folder_and_what_is_no_export_are_refused(
    exported: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("export", "tiny", "--out", exported) == 2
    assert "is there already" in capsys.readouterr().err
    assert nota("infer", "--task", "asr", "--runtime", "onnx") == 2
    assert "is no export" in " ".join(capsys.readouterr().err.split())
    assert nota("infer", "--recipe", exported, "--task", "asr", "--runtime", "torch") == 2
    assert "is an export" in " ".join(capsys.readouterr().err.split())


def test_efficiency_measures_the_export_itself(
    exported: Path, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--runtime", "onnx", "--rounds", "2", "--warm-up", "1", "--tokens", "4", "--audio-seconds", "2"]
    capsys.readouterr()
    assert nota("efficiency", "--recipe", exported, *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["recipe"] == "tiny"


def test_a_part_above_its_bound_fails_the_gate() -> None:
    from nota_cli.export.parity import Parity

    bounds = dict.fromkeys(["audio_encoder", "connector", "decoder"], 0.1)
    parity = Parity(2, {"audio_encoder": 0.01, "connector": 0.2, "decoder": float("nan")}, bounds)
    assert parity.failed == ["connector", "decoder"]
