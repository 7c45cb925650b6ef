"""Public models by their own classes at a tiny size: the texts are those that transformers' own code gives."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from helpers import public_models
from helpers.recipes import PUBLIC
from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.models.build import build
from nota_cli.models.families.public import PublicModel
from nota_cli.prompts import Query
from nota_cli.recipe.load import load_any_recipe
from nota_cli.recipe.public import PublicRecipe

TRANSCRIBERS = ("whisper", "moonshine")
PROMPT = "What is heard?"


@pytest.fixture(scope="module", params=public_models.MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public_models.make(kind, tmp_path_factory.mktemp(kind))


def recipe_of(folder: Path, **model: Any) -> PublicRecipe:
    return PublicRecipe(
        name="tiny",
        model={"path": str(folder), **model},
        prompts={"tasks": {"asr": "<SpeechHere>", "QA": "<SpeechHere>{}"}},
        generate={"beams": 1, "max_new_tokens": 8, "batch_size": 4},
    )


def waves(clips: Path) -> list[np.ndarray]:
    return [load_clip([clips / row.path]) for row in read_annotation(clips / "all.json")]


def query(kind: str) -> Query:
    return Query("asr") if kind in TRANSCRIBERS else Query("QA", PROMPT)


def own_text(kind: str, folder: Path, wave: np.ndarray) -> str:
    """What transformers alone says of one clip."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    if kind in TRANSCRIBERS:
        inputs = processor.feature_extractor(
            wave, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
        )
    else:
        content = [{"type": "audio", "audio": wave}, {"type": "text", "text": PROMPT}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
        )
    with torch.inference_mode():
        ids = model.generate(**inputs, max_new_tokens=8, do_sample=False, num_beams=1)
    prompt = 0 if config.is_encoder_decoder else inputs["input_ids"].size(1)
    return processor.batch_decode(ids[:, prompt:], skip_special_tokens=True)[0].strip()


def test_texts_are_transformers_own_at_batch_1_and_5(kind: str, folder: Path, clips: Path) -> None:
    model = build(recipe_of(folder), purpose="run")
    assert isinstance(model, PublicModel)
    features = model.preprocessor().features(waves(clips))
    together = [answer.text for answer in model.generate_answers(features, [query(kind)] * 5)]
    alone = [model.generate_answers(features.part(slice(i, i + 1)), [query(kind)])[0].text for i in range(5)]
    assert alone == [own_text(kind, folder, wave) for wave in waves(clips)]
    assert together == alone
    said: list[str] = []
    whole = model.generate_answers(features.part(slice(0, 1)), [query(kind)], on_text=said.append)[0].text
    assert whole == alone[0] == (said[-1] if said else "")


def test_parts_add_up_and_dummy_weights_have_the_same_size(folder: Path) -> None:
    model = build(recipe_of(folder), purpose="run")
    whole = sum(parameter.numel() for parameter in {id(p): p for p in model.model.parameters()}.values())
    sizes = {part.name: part.parameters for part in model.parts()}
    assert set(sizes) == {"speech_encoder", "decoder"}
    assert sum(sizes.values()) == whole
    dummy = build(recipe_of(folder), load_format="dummy")
    assert {part.name: part.parameters for part in dummy.parts()} == sizes


def test_efficiency(nota: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(f"family: transformers\nmodel: {{path: {folder}}}\n")
    assert nota("efficiency", "--recipe", file, "--rounds", 3, "--tokens", 2, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["runtime"] == "transformers"
    assert {"speech_encoder", "prefill", "tpot"} <= set(report["seconds"])
    assert report["memory_mb"]["kv_cache"] > 0


class TestWhisper:
    @pytest.fixture(scope="class")
    def tiny(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("whisper")
        public_models.make("whisper", folder / "model")
        file = folder / "tiny.yaml"
        file.write_text("family: transformers\nmodel: {path: ./model}\ngenerate: {beams: 1, max_new_tokens: 6}\n")
        return file

    def test_infer(self, nota: Callable[..., int], tiny: Path, clips: Path, tmp_path: Path) -> None:
        out = tmp_path / "o.csv"
        arguments = ["infer", "--recipe", tiny, "--annotation", clips / "asr.json", "--audio-root", clips, "--out", out]
        assert nota(*arguments) == 0
        with out.open() as file:
            assert len(list(csv.DictReader(file))) == 2
        assert nota(*arguments, "--overwrite", "--set", "generate.sample=true", "--set", "generate.temperature=2") == 0

    def test_what_does_not_suit_it(
        self, nota: Callable[..., int], tiny: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["infer", "--recipe", tiny, "--annotation", clips / "aac.json", "--audio-root", clips]
        assert nota(*arguments, "--out", tmp_path / "o.csv") == 2
        assert "no prompt for audiocaption_v2" in capsys.readouterr().err
        captions = "prompts.tasks={audiocaption_v2: '<SpeechHere>Describe it.'}"
        assert nota(*arguments, "--out", tmp_path / "o.csv", "--set", captions) == 2
        assert "only transcribes and takes no prompt" in capsys.readouterr().err

    @pytest.mark.parametrize("quantization", ["int8", "int4"])
    def test_few_bits(self, quantization: str, tiny: Path, clips: Path) -> None:
        recipe = load_any_recipe(str(tiny), [f"model.quantization={quantization}"])
        model = build(recipe, purpose="run")
        assert {"8-bit" if quantization == "int8" else "4-bit"} <= set(model.parts()[0].by_type)
        assert len(model.generate_answers(model.preprocessor().features(waves(clips)), [Query("asr")] * 5)) == 5

    def test_training_is_refused(
        self, nota: Callable[..., int], tiny: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert nota("train", tiny) == 2
        assert "is of the family transformers" in capsys.readouterr().err


class TestRefusals:
    def write(self, folder: Path, **config: Any) -> PublicRecipe:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        return recipe_of(folder)

    def test_a_type_that_transformers_does_not_know(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="knows no model type 'ears'"):
            build(self.write(tmp_path / "m", model_type="ears"))

    def test_remote_code(self, tmp_path: Path) -> None:
        recipe = self.write(tmp_path / "m", model_type="ears", auto_map={"AutoConfig": "code.EarsConfig"})
        with pytest.raises(RecipeError, match="wants to run code that comes with its weights"):
            build(recipe)

    def test_a_model_that_does_not_hear(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="type 'llama', which is not among transformers' models that hear"):
            build(self.write(tmp_path / "m", model_type="llama"))

    def test_a_processor_that_is_not_there(self, tmp_path: Path) -> None:
        public_models.make("whisper", tmp_path / "m")
        (tmp_path / "m" / "processor_config.json").unlink(missing_ok=True)
        (tmp_path / "m" / "preprocessor_config.json").unlink(missing_ok=True)
        with pytest.raises(RecipeError, match="its processor"):
            build(recipe_of(tmp_path / "m"))

    def test_a_processor_that_takes_no_audio(self, tmp_path: Path) -> None:
        """A folder whose own tokenizer is all that it has for a processor."""
        folder = public_models.make("whisper", tmp_path / "m")
        (folder / "processor_config.json").unlink()
        tokenizer = folder / "tokenizer_config.json"
        values = json.loads(tokenizer.read_text()) | {"processor_class": "CLIPTokenizer"}
        tokenizer.write_text(json.dumps(values))
        with pytest.raises(
            RecipeError, match="its processor, a CLIPTokenizer, takes no audio; name a model that hears"
        ):
            build(recipe_of(folder))

    def test_weights_that_are_missing(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        public_models.make("whisper", tmp_path / "m")
        file = tmp_path / "m" / "model.safetensors"
        tensors = load_file(file)
        del tensors["model.encoder.conv1.weight"]
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"missing: model.encoder.conv1.weight"):
            build(recipe_of(tmp_path / "m"))

    def test_no_config(self, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        with pytest.raises(CheckpointError, match="config.json cannot be read"):
            build(recipe_of(tmp_path / "m"))


@pytest.mark.parametrize("name", PUBLIC)
def test_shipped_recipes_state_their_terms_and_what_suits_them(name: str) -> None:
    recipe = load_any_recipe(name)
    assert isinstance(recipe, PublicRecipe)
    assert recipe.license
    assert recipe.description
    assert "asr" in recipe.prompts.tasks
    assert load_any_recipe(name, ["generate.max_new_tokens=24"]).generate.beams == recipe.generate.beams == 1


def test_recipes_are_listed_by_family(nota: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert nota("recipes", "list", "--family", "transformers", "--json") == 0
    assert {row["recipe"] for row in json.loads(capsys.readouterr().out)["recipes"]} == set(PUBLIC)
    assert nota("recipes", "list", "--family", "whisper") == 2
    assert "there is no model family 'whisper'; there are: salmonn, transformers" in capsys.readouterr().err
