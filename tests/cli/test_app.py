"""The command line as a user meets it: results, exit status, one clear message, nothing half-written."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file, save_file

from nota_cli.submission import validate

Run = Callable[..., int]


def test_infer_writes_every_row_in_order(nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "all.csv"
    assert nota("infer", "--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json", "--out", out) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "testset_id,text"
    assert [line.split(",")[0] for line in lines[1:]] == [f"test{i:04d}" for i in range(5)]
    assert not validate(out, clips / "all.json")
    assert sorted(out.parent.iterdir()) == [out, out.with_suffix(".run.json")]


def test_limit_and_settings_are_heeded(
    nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "two.csv"
    arguments = ["--annotation", clips / "all.json", "--limit", 2, "--set", "generate.max_new_tokens=1"]
    assert nota("infer", "--recipe", tiny_checkpoint, *arguments, "--out", out) == 0
    rows = out.read_text().splitlines()[1:]
    assert len(rows) == 2
    assert all(len(row.split(",")[1].split()) <= 1 for row in rows)


def _wav(path: Path, samples: np.ndarray, subtype: str = "PCM_16") -> None:
    soundfile.write(path, samples, 16000, subtype=subtype)


def _truncated(path: Path) -> None:
    _wav(path, np.ones(16000) * 0.1)
    path.write_bytes(path.read_bytes()[:9000])


def _nan(path: Path) -> None:
    _wav(path, np.full(16000, np.nan), "FLOAT")


BAD_AUDIO = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("this is not audio\n" * 50),
    "truncated": _truncated,
    "no samples": lambda path: _wav(path, np.zeros(0)),
    "nan": _nan,
    "header alone": lambda path: path.write_bytes(b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt "),
}


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_bad_audio_stops_with_file_and_row_and_leaves_no_csv(
    kind: str, nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(clips / "audio", tmp_path / "audio")
    bad = tmp_path / "audio" / "bad.wav"
    BAD_AUDIO[kind](bad)
    rows = json.loads((clips / "all.json").read_text())["annotation"]
    rows[3]["path"] = "audio/bad.wav"
    (tmp_path / "all.json").write_text(json.dumps({"annotation": rows}))
    out = tmp_path / "out.csv"
    assert nota("infer", "--checkpoint", tiny_checkpoint, "--annotation", tmp_path / "all.json", "--out", out) == 1
    message = capsys.readouterr().err.replace("\n", " ")
    assert "bad.wav" in message
    assert "row 3" in message
    assert "Traceback" not in message
    assert not out.exists()
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "annotation"),
        ('{"annotation": [{"task": "asr"}]}', "path"),
        ('{"annotation": [{"path": "audio/c0.wav", "task": "asd"}]}', "asr"),
        ('{"annotation": []}', "empty"),
    ],
)
def test_bad_annotations(
    content: str, said: str, nota: Run, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text(content)
    assert nota("infer", "--checkpoint", tiny_checkpoint, "--annotation", tmp_path / "bad.json") == 1
    message = capsys.readouterr().err
    assert "bad.json" in message
    assert said in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--recipe", "tiyn"], "did you mean tiny"),
        (["--task", "asd"], "asr, aac, qa"),
        (["--annotation", "nowhere.json"], "nowhere.json"),
        (["--set", "generate.beems=2", "--set", "conector=1"], "did you mean beams?"),
        (["--task", "qa"], "no test set for task"),
        (["--device", "cuda:77"], "cuda"),
        (["--device", "meta"], "use auto, cpu"),
        (["--set", "decoder.kernel=warp"], "warp"),
    ],
)
def test_wrong_use_is_exit_2(
    arguments: list[str], said: str, nota: Run, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", "asr", "--out", tmp_path / "x.csv", *arguments]
    assert nota("infer", *given) == 2
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "x.csv").exists()


def test_a_folder_that_takes_no_files_is_noticed_before_the_model_is_loaded(
    nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["--annotation", clips / "all.json", "--out", tmp_path / "file" / "out.csv"]
    assert nota("infer", "--checkpoint", tiny_checkpoint, *arguments) == 2
    message = capsys.readouterr().err
    assert "cannot write" in message
    assert "recipe random on" not in message


def test_settings_that_no_model_can_have_are_exit_2(
    nota: Run, tiny_recipe: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for setting, said in [
        ("lora={targets: [nowhere]}", "lora.targets"),
        ("decoder.config.model_type=gemma77", "decoder.config"),
        ("connector.heads=3", "multiple of heads 3"),
        ("connector.window_seconds=0.001", "window"),
    ]:
        given = ["--recipe", tiny_recipe, "--annotation", clips / "all.json", "--out", tmp_path / "x.csv"]
        assert nota("infer", *given, "--set", setting) == 2, setting
        assert said in capsys.readouterr().err


def test_another_checkpoint_brings_its_own_decoder(
    nota: Run, tiny_recipe: Path, tiny_checkpoint: Path, clips: Path, tmp_path: Path
) -> None:
    """A recipe that names a checkpoint and the decoder in it, as `tiny` does, with `--checkpoint` for another one."""
    import torch

    from nota_cli.models.build import build
    from nota_cli.recipe.load import load_recipe

    torch.manual_seed(11)
    build(load_recipe(str(tiny_recipe))).save_pretrained(tmp_path / "first")
    (tmp_path / "r.yaml").write_text(
        (tmp_path / "first" / "recipe.yaml").read_text().replace("./decoder", "./first/decoder")
        + "checkpoint: ./first\n"
    )
    texts = []
    for recipe, out in ((tmp_path / "r.yaml", "a.csv"), (tiny_checkpoint, "b.csv")):
        given = ["--recipe", recipe, "--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json"]
        assert nota("infer", *given, "--out", tmp_path / out) == 0
        texts.append((tmp_path / out).read_text())
    assert texts[0] == texts[1]


def test_a_csv_that_is_a_folder_is_exit_2(
    nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--checkpoint", tiny_checkpoint, "--annotation", clips / "all.json", "--out", tmp_path]
    assert nota("infer", *arguments) == 2
    assert "it is a folder" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["decoder/model.safetensors", "model.safetensors"])
def test_a_damaged_checkpoint_file_is_exit_1(
    file: str, nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    whole = (tiny_checkpoint / file).read_bytes()
    (tmp_path / "broken" / file).write_bytes(whole[: len(whole) // 2])
    arguments = ["--annotation", clips / "all.json", "--out", tmp_path / "out.csv"]
    assert nota("infer", "--checkpoint", tmp_path / "broken", *arguments) == 1
    assert "broken" in capsys.readouterr().err


def test_a_checkpoint_with_other_keys_is_exit_1(
    nota: Run, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    state = load_file(weights)
    state["stranger"] = state.pop("connector.ln_speech.bias")
    save_file(state, weights)
    out = tmp_path / "out.csv"
    arguments = ["--annotation", clips / "all.json", "--out", out]
    assert nota("infer", "--checkpoint", tmp_path / "broken", *arguments) == 1
    message = capsys.readouterr().err
    assert "missing: connector.ln_speech.bias" in message
    assert "unexpected: stranger" in message
    assert not out.exists()


def test_score_prints_json_alone(nota: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"path": "a.wav", "task": "asr", "text": text} for text in ("a dog barks", "the rain falls")]
    (tmp_path / "a.json").write_text(json.dumps({"annotation": rows}))
    (tmp_path / "a.csv").write_text("testset_id,text\ntest0000,a dog barks\ntest0001,the train fell down\n")
    assert nota("score", tmp_path / "a.csv", "--annotation", tmp_path / "a.json", "--task", "asr", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["edits"], report["reference_words"]) == (3, 6)
    assert report["printed"] == "WER: 50.0000%"


def test_score_by_all_profiles(nota: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"path": "a.wav", "task": "asr", "text": text} for text in ("we like icecream", "a dog")]
    (tmp_path / "a.json").write_text(json.dumps({"annotation": rows}))
    (tmp_path / "a.csv").write_text("testset_id,text\ntest0000,We like ice cream.\ntest0001,a cat\n")
    before = (tmp_path / "a.csv").read_bytes()
    command = ["score", tmp_path / "a.csv", "--annotation", tmp_path / "a.json", "--task", "asr", "--profile", "all"]
    assert nota(*command, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    edits = {name: report["edits"] for name, report in found["profiles"].items()}
    assert edits == {"organisers": 3, "standard": 3, "open-asr": 1}
    assert nota(*command, "--worst", "1") == 0
    shown = capsys.readouterr()
    assert "Same texts, 3 profiles: a.csv" in shown.out
    assert "open-asr: the Open ASR Leaderboard's English normalizer" in shown.err
    assert (tmp_path / "a.csv").read_bytes() == before
    assert nota(*command, "--details", tmp_path / "d.csv") == 2
    assert "--details lists the clips of one profile" in capsys.readouterr().err
    assert nota(*command[:-1], "dcase") == 2
    assert "profile dcase scores task aac alone; for asr choose one of organisers" in capsys.readouterr().err
    # nota compare takes the organisers' figures of such a report
    (tmp_path / "all.json").write_text(json.dumps(found))
    assert nota("compare", tmp_path / "all.json", "--no-references", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["wer"] == 60.0


def test_validate_submission_lists_every_problem(
    nota: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert nota("validate-submission") == 2
    (tmp_path / "submission.csv").write_text("testset_id,text\ntest0000,a\ntest0000,b\nx,\n")
    assert nota("validate-submission", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["valid"]
    assert [problem["line"] for problem in found["problems"]] == [3, 4, 4]
    (tmp_path / "submission.csv").write_text("testset_id,text\ntest0000,a\n")
    assert nota("validate-submission") == 0


def test_efficiency_reports_bytes_and_times(
    nota: Run, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("efficiency", "--checkpoint", tiny_checkpoint, "--rounds", 2, "--tokens", 3, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    parts = ("speech_encoder", "audio_encoder", "connector", "decoder")
    assert sum(report[f"{part}_mb"] for part in parts) == pytest.approx(report["weights_mb"], abs=0.01)
    assert 0 < report["tpot_s"] < report["ttft_from_waveform_s"]
    assert report["ttft_from_features_s"] < report["ttft_from_waveform_s"]


def test_train_quantize_and_lora_run_from_the_command_line(
    nota: Run, tiny_recipe: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The way the shipped model was made, at the smallest size: all parts, then 4-bit GPTQ, then LoRA on it."""
    first, packed, last = tmp_path / "first", tmp_path / "packed", tmp_path / "last"
    quick = ["--set", "train.steps=2", "--set", "data.validation=[]"]
    assert nota("train", tiny_recipe, "--out", first, *quick) == 0
    assert nota("quantize", first, "--recipe", tiny_recipe, "--out", packed, "--clips", 16) == 0
    frozen = [f"--set={part}.train=false" for part in ("speech_encoder", "audio_encoder", "decoder")]
    gptq = f"--set=decoder={{path: {packed / 'decoder'}, quantization: gptq, config: null, tokenizer: null}}"
    assert nota("train", tiny_recipe, "--out", last, "--init", packed, gptq, *frozen, "--set=lora={}", *quick) == 0
    out = tmp_path / "out.csv"
    assert nota("infer", "--checkpoint", last, "--annotation", clips / "all.json", "--out", out) == 0
    assert "GPTQ decoder on the blockwise kernel" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 6


def test_prepare_rejects_a_hold_out_that_is_no_range(
    nota: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("prepare", "fsdd", tmp_path, "--hold-out", "5") == 2
    assert "FIRST-LAST" in capsys.readouterr().err


def test_version(nota: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert nota("--version") == 0
    assert capsys.readouterr().out.startswith("nota ")
