"""Recipes, checkpoints and configs of other systems, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from nota_cli.recipe.load import load_any_recipe, load_recipe, recipe_names
from nota_cli.recipe.public import PublicRecipe

Nota = Callable[..., int]
Golden = Callable[..., Path]


def test_recipes_are_listed_and_shown_with_their_sizes(nota: Nota, capsys: pytest.CaptureFixture[str]) -> None:
    assert nota("recipes", "show", "gemma2-2b-gptq", "--json") == 0
    parts = {part["part"]: part for part in json.loads(capsys.readouterr().out)["parts"]}
    assert parts["decoder"]["parameters"] == pytest.approx(2.614e9, rel=1e-3)
    # 26 layers of 77.9 million 4-bit weights, in groups of 128 a 16-bit scale and a 4-bit zero, and an index a row.
    assert parts["decoder"]["by_type"]["4-bit"] == pytest.approx(26 * 77.86e6 * (4 + 20 / 128) / 8, rel=0.01)
    assert parts["all"]["bytes"] == sum(part["bytes"] for name, part in parts.items() if name != "all")
    assert nota("recipes", "show", "tiny") == 0
    assert "speech_encoder" in capsys.readouterr().out


def test_every_recipe_is_in_the_list(nota: Nota, capsys: pytest.CaptureFixture[str]) -> None:
    assert nota("recipes", "list", "--json") == 0
    rows = {row["recipe"]: row for row in json.loads(capsys.readouterr().out)["recipes"]}
    assert rows["salmonn-3b"]["GB"] == pytest.approx(9.44, abs=0.01)
    assert rows["no-beats"]["audio encoder"] == "none"


def test_the_list_begins_with_what_needs_nothing_and_says_why_a_size_is_unknown(
    nota: Nota, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("recipes", "list", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["recipes"]
    names = [row["recipe"] for row in rows]
    assert names[:4] == ["tiny", "tiny-samples", "tiny-stages", "small"]
    assert names.index("tiny-stage1") < names.index("audio-flamingo-3")  # a public model
    assert all(row["parameters"] for row in rows)
    assert nota("recipes", "list") == 0
    assert "not stated: the recipe does not say how many parameters" in " ".join(capsys.readouterr().err.split())
    assert nota("recipes", "list", "--family", "salmonn") == 0
    assert "not stated" not in capsys.readouterr().err


def test_a_public_model_is_shown_with_what_others_report_and_without_a_size_if_none_is_stated(
    nota: Nota, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nota("recipes", "show", "whisper-tiny.en", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["reported"]["LibriSpeech test-clean, WER"] == "5.6 (Radford et al. 2022, table 8)"
    assert values["license"].startswith("MIT")
    for name in recipe_names():
        recipe = load_any_recipe(name)
        if not isinstance(recipe, PublicRecipe):
            continue
        assert nota("recipes", "show", name) == 0
        shown = capsys.readouterr()
        assert f"license: {recipe.license}" in shown.err
        assert ("not stated" in shown.out) == (recipe.model.parameters is None)
        assert ("Reported by others" in shown.out) == bool(recipe.reported)
        for figure in recipe.reported.values():
            assert figure.split()[0] in shown.out


def test_dummy_weights_run_with_nothing_downloaded(
    nota: Nota, tiny_recipe: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.yaml"
    values = {**yaml.safe_load(tiny_recipe.read_text()), "name": "small"}
    values["decoder"] = {**values["decoder"], "tokenizer": "nobody/nothing"}
    values["decoder"]["config"] = {**values["decoder"]["config"], "vocab_size": 300}
    recipe.write_text(yaml.safe_dump(values))
    out = tmp_path / "out.csv"
    data = ["--annotation", clips / "all.json", "--out", out]
    assert nota("infer", "--recipe", recipe, "--load-format", "dummy", *data) == 0
    assert len(out.read_text().splitlines()) == 6
    assert "dummy weights" in capsys.readouterr().err
    assert nota("infer", "--recipe", recipe, *data) == 1  # the tokenizer cannot be had
    assert nota("infer", "--recipe", recipe, "--load-format", "dumy", *data) == 2
    flags = ["--load-format", "dummy", "--rounds", 1, "--tokens", 2, "--audio-seconds", 1, "--json"]
    capsys.readouterr()
    assert nota("efficiency", "--recipe", recipe, *flags) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "small"


def test_download_says_where_the_parts_lie_and_what_is_not_to_be_had(
    nota: Nota, golden_systems: Path, golden_recipe: Golden, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = golden_systems / "nota"
    recipe = golden_recipe(folder)
    assert nota("download", recipe) == 0
    assert "decoder.path" in capsys.readouterr().out
    assert nota("download", recipe, "--set", "audio_encoder.path=weights/nowhere.pt") == 1
    message = capsys.readouterr().err
    assert "audio_encoder.path: there is no weights/nowhere.pt" in message
    assert "speech_encoder.path, decoder.path" in message


@pytest.mark.parametrize("team", ["nota", "cv03", "nlp07", "cv16"])
def test_a_converted_checkpoint_gives_the_same_texts(
    team: str,
    nota: Nota,
    golden_systems: Path,
    golden_recipe: Golden,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = golden_systems / team
    recipe = golden_recipe(folder)
    data = ["--annotation", folder / "manifest.json", "--audio-root", folder / "audio", "--set", "generate.beams=1"]
    assert nota("infer", "--recipe", recipe, *data, "--out", tmp_path / "theirs.csv") == 0
    converted = tmp_path / "converted"
    plain = golden_recipe(folder, checkpoint=None)
    assert nota("checkpoint", "convert", folder / "checkpoint.pth", "--recipe", plain, "--out", converted) == 0
    assert "matched, 0 missing, 0 unexpected" in capsys.readouterr().err
    assert not (converted / "decoder").exists()  # published weights stay where they are
    assert nota("infer", "--checkpoint", converted, *data, "--out", tmp_path / "ours.csv") == 0
    assert (tmp_path / "ours.csv").read_text() == (tmp_path / "theirs.csv").read_text()


def test_what_a_pth_lacks_stops_the_run_unless_it_is_allowed(
    nota: Nota, golden_systems: Path, golden_recipe: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = golden_systems / "nota"
    recipe, out = golden_recipe(folder), tmp_path / "out.csv"
    data = ["--annotation", folder / "manifest.json", "--audio-root", folder / "audio", "--limit", 1, "--out", out]
    content = torch.load(folder / "checkpoint.pth", weights_only=True)
    missing = "speech_Qformer.bert.encoder.layer.1.output_query.dense.weight"
    lacking = {name: tensor for name, tensor in content["model"].items() if name != missing}
    torch.save({"model": {**lacking, "something.else": torch.zeros(2)}}, tmp_path / "lacking.pth")
    assert nota("infer", "--recipe", recipe, "--checkpoint", tmp_path / "lacking.pth", *data) == 1
    message = capsys.readouterr().err
    assert f"missing: connector.{missing}" in message
    assert "unexpected: something.else" in message
    assert not out.exists()
    flags = ["--checkpoint", tmp_path / "lacking.pth", "--allow-missing"]
    assert nota("infer", "--recipe", recipe, *flags, *data) == 0
    assert f"missing: connector.{missing}" in capsys.readouterr().err
    content["model"]["speech_query_tokens"] = torch.zeros(1, 2, 64)
    torch.save(content, tmp_path / "shape.pth")
    flags = ["--checkpoint", tmp_path / "shape.pth", "--allow-missing"]
    assert nota("infer", "--recipe", recipe, *flags, *data, "--overwrite") == 1
    assert "shape of connector.speech_query_tokens: (1, 2, 64)" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "another system's", "no weights", "code"])
def test_a_bad_pth_is_one_clear_message(
    damage: str,
    nota: Nota,
    golden_systems: Path,
    golden_recipe: Golden,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, bad = golden_systems / "nota", tmp_path / "bad.pth"
    whole = (folder / "checkpoint.pth").read_bytes()
    trace = tmp_path / "it-ran"
    if damage == "truncated":
        bad.write_bytes(whole[: len(whole) // 2])
    elif damage == "another system's":
        bad.write_bytes((golden_systems / "cv16" / "checkpoint.pth").read_bytes())
    elif damage == "no weights":
        torch.save({"epoch": 3}, bad)
    else:
        torch.save({"model": _Touch(trace)}, bad)
    data = ["--annotation", folder / "manifest.json", "--audio-root", folder / "audio", "--out", tmp_path / "out.csv"]
    assert nota("infer", "--recipe", golden_recipe(folder), "--checkpoint", bad, *data) == 1
    message = capsys.readouterr().err
    assert "bad.pth" in message
    assert "Traceback" not in message
    assert not trace.exists()
    assert not (tmp_path / "out.csv").exists()


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_config_of_another_system_becomes_a_recipe(
    nota: Nota, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "theirs.yaml"
    model = {"llama_path": "meta-llama/Llama-3.2-3B-Instruct", "whisper_path": "openai/whisper-large-v2"}
    model |= {"lora": True, "lora_rank": 16, "lora_alpha": 32, "lora_dropuot": 0.1, "end_sym": "</s>"}
    config.write_text(yaml.safe_dump({"model": model, "run": {"optims": {"init_lr": "3e-5"}}}))
    out = tmp_path / "mine.yaml"
    assert nota("recipes", "import", config, "--out", out) == 0
    assert "lora_dropuot" in capsys.readouterr().err
    recipe = load_recipe(str(out))
    assert recipe.lora is not None
    assert recipe.lora.rank == 16
    assert recipe.prompts.end_symbol == "</s>"
    assert nota("recipes", "import", config) == 0
    assert capsys.readouterr().out == out.read_text().replace("mine.yaml", "THIS.yaml")
    config.write_text("- not\n- a config\n")
    assert nota("recipes", "import", config) == 2


def test_a_checkpoint_is_made_smaller_from_the_command_line(
    nota: Nota, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned, smaller = tmp_path / "pruned", tmp_path / "smaller"
    assert nota("prune-layers", tiny_checkpoint, "--decoder", 1, "--out", pruned) == 0
    assert "1 of 2" in capsys.readouterr().out
    assert nota("prune-vocabulary", pruned, "--annotation", clips / "all.json", "--out", smaller) == 0
    assert "tokens" in capsys.readouterr().out
    out = tmp_path / "out.csv"
    assert nota("infer", "--checkpoint", smaller, "--annotation", clips / "all.json", "--out", out) == 0
    assert nota("prune-layers", tiny_checkpoint, "--out", tmp_path / "none") == 2
    assert nota("prune-layers", tiny_checkpoint, "--decoder", 3, "--out", tmp_path / "none") == 2
    assert nota("prune-vocabulary", pruned, "--out", tmp_path / "none") == 2
    assert nota("merge-lora", tiny_checkpoint, "--out", tmp_path / "none") != 0  # it has no adapters
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
