"""No command writes over a file that it reads: every command and every option that writes, against every input."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
import yaml

from nota_cli.cli import app

Nota = Callable[..., int]

FILE = ("",)  # the option names the file itself
CHECKPOINT = ("recipe.yaml", "model.safetensors", "metrics.json", "adapter", "decoder")
WRITES: dict[str, dict[str, tuple[str, ...]]] = {
    "infer": {"out": ("", ".run.json", ".journal", ".journal.1")},
    "train": {"out": CHECKPOINT},
    "score": {"details": FILE},
    "efficiency": {"out": FILE},
    "prepare fsdd": {"out": ("fsdd-train.json", "fsdd-dev.json")},
    "prepare esc10": {"out": ("esc10-train.json", "esc10-dev.json")},
    "prepare tokenizer": {"out": ("tokenizer.json", "tokenizer_config.json")},
    "recipes import": {"out": FILE},
    "checkpoint convert": {"out": CHECKPOINT},
    "quantize": {"out": CHECKPOINT},
    "prune-vocabulary": {"out": FILE},
    "prune-layers": {"out": FILE},
    "merge-lora": {"out": FILE},
    "compare": {"out": ("compare.md", "compare.csv", "compare.png")},
    "validate-submission": {"fix": FILE},
    "export": {"out": FILE},
    "ladder": {"out": ("ladder.md", "ladder.csv", "ladder.png", "state.json", "sets/asr.json")},
    "data check": {"drop_bad": FILE},
    "data stats": {"out": ("stats.md", "stats.html", "words.png")},
    "data split": {"out": ("train.json",)},
    "data sample": {"out": FILE},
    "data merge": {"out": FILE},
    "data prepare": {"out": ("", ".manifest.json")},
}
"""What each option writes: behind its value (`infer`, and files), or inside the folder that it names."""

READS = {
    "infer": {"audio", "recipe", "checkpoint", "annotation", "audio_root"},
    "transcribe": {"audio", "recipe", "checkpoint"},
    "caption": {"audio", "recipe", "checkpoint"},
    "train": {"recipe", "init"},
    "score": {"csv", "annotation"},
    "efficiency": {"recipe", "checkpoint", "comparison"},
    "prepare fsdd": {"folder"},
    "prepare esc10": {"folder"},
    "prepare tokenizer": {"recipe"},
    "recipes show": {"recipe"},
    "recipes import": {"config"},
    "checkpoint convert": {"file", "recipe"},
    "quantize": {"checkpoint", "recipe"},
    "prune-vocabulary": {"source", "annotation", "texts"},
    "prune-layers": {"checkpoint", "recipe"},
    "merge-lora": {"checkpoint"},
    "chat": {"audio", "recipe", "checkpoint"},
    "demo": {"recipe"},
    "compare": {"runs"},
    "download": {"recipe"},
    "submit": {"csv", "annotation"},
    "validate-submission": {"csv", "annotation", "asr", "aac"},
    "export": {"source", "checkpoint", "annotation", "audio_root"},
    "ladder": {"source", "checkpoint", "annotation", "audio_root"},
    "data check": {"annotation", "audio_root", "against", "against_root"},
    "data stats": {"annotation", "audio_root"},
    "data to-flac": {"folder", "annotation"},
    "data split": {"annotation"},
    "data sample": {"annotation"},
    "data merge": {"annotations"},
    "data prepare": {"corpus", "folder", "exclude"},
    "check batch": {"recipe", "annotation", "audio_root"},
    "check listening": {"recipe", "annotation", "audio_root"},
}

NEITHER = {"task", "settings", "device", "batch_size", "on_error", "long", "load_format", "profile", "protocol"}
NEITHER |= {"hold_out", "keep", "strategy", "weights", "missing", "competition", "message", "prompt", "host"}
NEITHER |= {"family", "parts", "split", "column", "encoder_bits", "decoder_bits", "runtimes"}

NOTHING_OVER = {"transcribe": {"out"}, "caption": {"out"}, "data to-flac": {"out"}}
"""Outputs that are refused, or kept, where anything is there: tests/cli/test_formats.py, tests/data/tools."""


def commands(group: typer.Typer = app, name: str = "") -> Iterator[tuple[str, Callable[..., object]]]:
    """Every command by its words, with its function."""
    for command in group.registered_commands:
        word = command.name or command.callback.__name__.replace("_", "-")
        yield f"{name} {word}".strip(), command.callback
    for inner in group.registered_groups:
        yield from commands(inner.typer_instance, f"{name} {inner.name}".strip())


def takes_words(hint: object) -> bool:
    """Whether an option's value is a path or any text, or there may be several such."""
    if hint in (str, Path):
        return True
    inner = () if get_origin(hint) is Literal else get_args(hint)
    return any(map(takes_words, inner[:1] if get_origin(hint) is Annotated else inner))


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_option_that_takes_words_is_known_to_read_or_write_or_neither(name: str) -> None:
    """An option that is new must be put into the tables above, and into a scenario below if it writes."""
    hints = get_type_hints(dict(commands())[name], include_extras=True)
    words = {option for option, hint in hints.items() if takes_words(hint)}
    known = WRITES.get(name, {}).keys() | READS.get(name, set())
    assert not words - known - NEITHER - NOTHING_OVER.get(name, set()), f"{name}: what do these options do?"
    assert known <= words
    if name in WRITES:
        assert name in SCENARIOS, f"{name} writes: add a scenario"


@dataclass
class Scenario:
    """A call of a command: its arguments but for the output, and the files that it reads."""

    arguments: list[object]
    inputs: dict[str, Path] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)


@pytest.fixture
def place(tmp_path: Path, clips: Path, tiny_checkpoint: Path, tiny_recipe: Path) -> Path:
    """A folder with one of everything."""
    shutil.copytree(clips, tmp_path / "clips")
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    values = yaml.safe_load(tiny_recipe.read_text())
    values["data"] = {
        "train": [{"annotation": str(tmp_path / "clips" / "all.json"), "audio_root": str(tmp_path / "clips")}]
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "mine.yaml").write_text("base: base\n")
    (tmp_path / "s.csv").write_text("testset_id,text\n" + "".join(f"test{n:04d},three seven one\n" for n in range(5)))
    report = {"task": "asr", "wer": 10.0, "profile": "organisers", "rows": 5}
    (tmp_path / "report.json").write_text(json.dumps(report))
    config = {"model": {"llama_path": "lmsys/vicuna-7b-v1.5", "whisper_path": "openai/whisper-large-v2"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "corpus" / "rain").mkdir(parents=True)
    for index, name in enumerate(("0_me_0.wav", "0_me_5.wav", "1_me_0.wav", "1_me_5.wav")):
        shutil.copyfile(clips / f"audio/c{index}.wav", tmp_path / "corpus" / name)
    (tmp_path / "words.txt").write_text("three\n")
    return tmp_path


def _infer(place: Path) -> Scenario:
    clips, checkpoint = place / "clips", place / "checkpoint"
    annotation = clips / "one.json"
    row = {"path": "audio/c1.wav", "expand_wav": ["audio/c3.wav"], "task": "asr", "text": "three"}
    annotation.write_text(json.dumps({"annotation": [row]}))
    arguments = ["infer", "--recipe", place / "mine.yaml", "--checkpoint", checkpoint, "--annotation", annotation]
    read = {"annotation": annotation, "recipe": place / "mine.yaml", "base": place / "base.yaml"}
    read |= {"recording": clips / "audio/c1.wav", "appended": clips / "audio/c3.wav", "training": clips / "all.json"}
    read |= {"weights": checkpoint / "model.safetensors", "decoder": checkpoint / "decoder" / "config.json"}
    return Scenario([*arguments, "--restart", "--overwrite"], read, [checkpoint])


def _train(place: Path) -> Scenario:
    arguments = ["train", place / "mine.yaml", "--init", place / "checkpoint", "--restart"]
    read = {"recipe": place / "mine.yaml", "base": place / "base.yaml", "data": place / "clips" / "all.json"}
    return Scenario(arguments, read | {"init": place / "checkpoint" / "model.safetensors"}, [place / "checkpoint"])


def _score(place: Path) -> Scenario:
    read = {"csv": place / "s.csv", "annotation": place / "clips" / "asr.json"}
    return Scenario(["score", read["csv"], "--annotation", read["annotation"], "--task", "asr"], read)


def _efficiency(place: Path) -> Scenario:
    read = {"recipe": place / "mine.yaml", "base": place / "base.yaml"}
    read |= {"weights": place / "checkpoint" / "model.safetensors"}
    arguments = ["efficiency", "--recipe", place / "mine.yaml", "--checkpoint", place / "checkpoint", "--rounds", 1]
    return Scenario(arguments, read, [place / "checkpoint"])


def _prepare(kind: str) -> Callable[[Path], Scenario]:
    def make(place: Path) -> Scenario:
        return Scenario(["prepare", kind, place / "corpus"], {"recording": place / "corpus" / "0_me_0.wav"})

    return make


def _tokenizer(place: Path) -> Scenario:
    read = {"recipe": place / "mine.yaml", "base": place / "base.yaml", "data": place / "clips" / "all.json"}
    return Scenario(["prepare", "tokenizer", place / "mine.yaml"], read)


def _import(place: Path) -> Scenario:
    return Scenario(["recipes", "import", place / "config.yaml"], {"config": place / "config.yaml"})


def _convert(place: Path) -> Scenario:
    import torch

    torch.save({"model": {}}, place / "theirs.pth")
    read = {"file": place / "theirs.pth", "recipe": place / "mine.yaml", "base": place / "base.yaml"}
    return Scenario(["checkpoint", "convert", place / "theirs.pth", "--recipe", place / "mine.yaml"], read)


def _quantize(place: Path) -> Scenario:
    read = {"recipe": place / "mine.yaml", "data": place / "clips" / "all.json"}
    read |= {"weights": place / "checkpoint" / "model.safetensors"}
    return Scenario(["quantize", place / "checkpoint", "--recipe", place / "mine.yaml"], read, [place / "checkpoint"])


def _prune_vocabulary(place: Path) -> Scenario:
    read = {"annotation": place / "clips" / "all.json", "texts": place / "words.txt"}
    read |= {"weights": place / "checkpoint" / "model.safetensors"}
    arguments = ["prune-vocabulary", place / "checkpoint", "--annotation", read["annotation"], "--texts", read["texts"]]
    return Scenario(arguments, read, [place / "checkpoint"])


def _prune_layers(place: Path) -> Scenario:
    weights = {"weights": place / "checkpoint" / "model.safetensors"}
    return Scenario(["prune-layers", place / "checkpoint", "--speech-encoder", 1], weights, [place / "checkpoint"])


def _merge(place: Path) -> Scenario:
    weights = {"weights": place / "checkpoint" / "model.safetensors"}
    return Scenario(["merge-lora", place / "checkpoint"], weights, [place / "checkpoint"])


def _compare(place: Path) -> Scenario:
    return Scenario(["compare", f"me={place / 'report.json'}", "--no-plot"], {"report": place / "report.json"})


def _validate(place: Path) -> Scenario:
    read = {"csv": place / "s.csv", "annotation": place / "clips" / "all.json"}
    return Scenario(["validate-submission", read["csv"], "--annotation", read["annotation"]], read)


def _export(place: Path) -> Scenario:
    read = {"recipe": place / "mine.yaml", "base": place / "base.yaml", "annotation": place / "clips" / "asr.json"}
    read |= {"weights": place / "checkpoint" / "model.safetensors"}
    arguments = [
        "export",
        place / "mine.yaml",
        "--checkpoint",
        place / "checkpoint",
        "--annotation",
        read["annotation"],
    ]
    return Scenario(arguments, read, [place / "checkpoint"])


def _ladder(place: Path) -> Scenario:
    export = _export(place)
    return Scenario(["ladder", *export.arguments[1:]], export.inputs, export.folders)


def _data(command: str, *more: object) -> Callable[[Path], Scenario]:
    def make(place: Path) -> Scenario:
        annotation = place / "clips" / "all.json"
        return Scenario(["data", command, annotation, *more], {"annotation": annotation})

    return make


def _data_prepare(place: Path) -> Scenario:
    (place / "table.csv").write_text("path,text\naudio/c1.wav,three\n")
    (place / "names.txt").write_text("c4\n")
    read = {
        "table": place / "table.csv",
        "names": place / "names.txt",
        "recording": place / "clips" / "audio" / "c1.wav",
    }
    return Scenario(["data", "prepare", read["table"], place / "clips", "--exclude", read["names"]], read)


SCENARIOS: dict[str, Callable[[Path], Scenario]] = {
    "infer": _infer,
    "train": _train,
    "score": _score,
    "efficiency": _efficiency,
    "prepare fsdd": _prepare("fsdd"),
    "prepare esc10": _prepare("esc10"),
    "prepare tokenizer": _tokenizer,
    "recipes import": _import,
    "checkpoint convert": _convert,
    "quantize": _quantize,
    "prune-vocabulary": _prune_vocabulary,
    "prune-layers": _prune_layers,
    "merge-lora": _merge,
    "compare": _compare,
    "validate-submission": _validate,
    "export": _export,
    "ladder": _ladder,
    "data check": _data("check"),
    "data stats": _data("stats"),
    "data split": _data("split", "train=1"),
    "data sample": _data("sample", "--count", 2),
    "data merge": _data("merge"),
    "data prepare": _data_prepare,
}

LINKS: dict[str, Callable[[Path, Path], object]] = {
    "itself": lambda link, target: None,
    "a symbolic link": lambda link, target: link.symlink_to(target),
    "a hard link": lambda link, target: os.link(target, link),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", WRITES)
def test_no_input_is_written_over(
    name: str, link: str, nota: Nota, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = SCENARIOS[name](place)
    for option, names in WRITES[name].items():
        flag = f"--{option.replace('_', '-')}"
        for label, victim in scenario.inputs.items():
            for written in names:
                where = place / "where"
                shutil.rmtree(where, ignore_errors=True)
                where.mkdir()
                out = where / "o" if written.startswith(".") or written == "" else where
                output = where / ("o" + written if out != where else written)
                output.parent.mkdir(exist_ok=True)
                if link == "itself":
                    if written != "":
                        continue
                    out = output = Path(os.path.relpath(victim))
                else:
                    LINKS[link](output, victim)
                before = contents(place)
                assert nota(*scenario.arguments, flag, out) == 2, (label, written)
                assert contents(place) == before, (label, written)
                message = capsys.readouterr().err.replace("\n", "")
                assert str(output) in message or str(victim) in message, (label, written)


@pytest.mark.parametrize("name", [name for name in WRITES if name not in ("score", "compare", "validate-submission")])
def test_nothing_is_written_into_or_as_a_folder_of_weights(
    name: str, nota: Nota, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = SCENARIOS[name](place)
    for folder in scenario.folders:
        for out in (folder, folder / "decoder", folder / "new", folder / "decoder" / "new" / "deeper"):
            before = contents(place)
            assert nota(*scenario.arguments, "--out", out) == 2, out
            assert contents(place) == before
            assert str(out) in capsys.readouterr().err.replace("\n", "")


def test_recordings_that_are_named_themselves_are_not_written_over(
    nota: Nota, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording, checkpoint = place / "clips" / "audio" / "c1.wav", place / "checkpoint"
    before = contents(place)
    for named in (recording, recording.parent):
        assert nota("infer", named, "--task", "asr", "--checkpoint", checkpoint, "--out", recording) == 2
        assert "one of the recordings" in capsys.readouterr().err
        assert contents(place) == before


def test_two_outputs_are_not_one_file(nota: Nota, place: Path) -> None:
    (place / "out").mkdir()
    (place / "out" / "compare.csv").symlink_to("compare.md")
    assert nota(*_compare(place).arguments, "--out", place / "out") == 2
    (place / "o.run.json").symlink_to("o.csv")
    assert nota(*_infer(place).arguments, "--out", place / "o.csv") == 2


@pytest.mark.parametrize("name", ["score", "efficiency"])
def test_a_report_takes_the_place_of_one_of_its_kind_alone(name: str, nota: Nota, place: Path) -> None:
    scenario = SCENARIOS[name](place)
    flag = "--details" if name == "score" else "--out"
    arguments = [*scenario.arguments, flag, place / "r"]
    if name == "efficiency":
        arguments += ["--tokens", 2, "--seconds", 0, "--warm-up", 0]
    (place / "r").touch()
    assert nota(*arguments) == 0
    assert nota(*arguments) == 0
    for other in ("testset_id,text\ntest0000,one\n", '{"annotation": []}', "notes"):
        (place / "r").write_text(other)
        assert nota(*arguments) == 2
        assert (place / "r").read_text() == other
