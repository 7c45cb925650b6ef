"""Public models by their own classes at a tiny size: the texts are those that transformers' own code gives."""

import csv
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from helpers import public_models, public_models_extra
from helpers.recipes import PUBLIC
from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.models.build import build
from nota_cli.models.families.public import PublicModel
from nota_cli.models.families.public_load import PACKAGES, SEES, load_processor
from nota_cli.prompts import Query
from nota_cli.recipe.load import load_any_recipe
from nota_cli.recipe.public import PublicRecipe

TRANSCRIBERS = ("whisper", "moonshine")
PROMPT = "What is heard?"
LEAK = ("granite_speech", "moonshine", "phi4_multimodal", "qwen3_asr")
"""Kinds whose shorter clips say something else in a batch, by transformers' own code: padding is attended to (Granite
Speech, Phi-4), goes into a norm over time (Moonshine) or into the last frames (Qwen3-ASR)."""
LEAK_A_LITTLE = ("gemma3n",)  # three frames of padding count as audio, which changes a text or does not
REQUESTS: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("audioflamingo3", "glmasr", "qwen3_asr")},
    "voxtral": {"model_id": "tiny", "format": ["WAV"], "sampling_rate": 16_000},
}
"""Kinds whose processors take a request for the transcript, and what it wants besides the clip."""


@pytest.fixture(scope="module", params=public_models_extra.MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    public_models_extra.skip_without_packages(request.param)
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public_models.make(kind, tmp_path_factory.mktemp(kind), public_models_extra.MAKERS)


def model_of(folder: Path) -> dict[str, str]:
    """A recipe's `model`."""
    lora = folder / "speech-lora"
    return {"path": str(folder), **({"adapter": str(lora)} if lora.exists() else {})}


def recipe_of(folder: Path, **model: Any) -> PublicRecipe:
    return PublicRecipe(
        name="tiny",
        model={**model_of(folder), **model},
        prompts={"tasks": {"asr": "<SpeechHere>", "QA": "<SpeechHere>{}"}},
        generate={"beams": 1, "max_new_tokens": 8, "batch_size": 4},
    )


def waves(clips: Path) -> list[np.ndarray]:
    return [load_clip([clips / row.path]) for row in read_annotation(clips / "all.json")]


def query(kind: str) -> Query:
    return Query("asr") if kind in TRANSCRIBERS else Query("QA", PROMPT)


def own_text(kind: str, folder: Path, wave: np.ndarray, prompt: str = PROMPT) -> str:
    """What transformers alone says of one clip; without a prompt, what it transcribes."""
    config = transformers.AutoConfig.from_pretrained(folder)
    own_class = "Qwen2_5OmniThinkerForConditionalGeneration" if kind == "qwen2_5_omni" else config.architectures[0]
    model = getattr(transformers, own_class).from_pretrained(folder).eval()
    if "adapter" in model_of(folder):
        model.load_adapter(model_of(folder)["adapter"])
    whole = kind not in SEES or find_spec("torchvision") is not None
    processor = transformers.AutoProcessor.from_pretrained(folder) if whole else load_processor(recipe_of(folder))
    if kind in TRANSCRIBERS:
        inputs = processor.feature_extractor(
            wave, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
        )
    elif not prompt:
        inputs = processor.apply_transcription_request(audio=[wave], **REQUESTS[kind])
    elif kind in public_models_extra.INPUTS:
        inputs = public_models_extra.INPUTS[kind](processor, wave, prompt)
    else:
        content = [{"type": "audio", "audio": wave}, {"type": "text", "text": prompt}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
        )
    try:
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=8, do_sample=False, num_beams=1)
    except ValueError as error:
        if "PEFT" in str(error):
            pytest.skip(f"transformers itself does not run it here: {error}")
        raise
    if kind == "qwen3_asr":
        return processor.decode(ids[0, inputs["input_ids"].size(1) :], return_format="transcription_only")
    prompt_tokens = 0 if config.is_encoder_decoder else inputs["input_ids"].size(1)
    return processor.batch_decode(ids[:, prompt_tokens:], skip_special_tokens=True)[0].strip()


def test_infer_gives_transformers_own_texts_and_says_where_a_batch_would_not(
    nota: Callable[..., int], kind: str, folder: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [row.path for row in read_annotation(clips / "all.json")]
    rows = [{"path": path, "task": "asr", "testset_id": str(number)} for number, path in enumerate(paths)]
    (tmp_path / "rows.json").write_text(json.dumps({"annotation": rows}))
    asked = "" if kind in TRANSCRIBERS else PROMPT
    (tmp_path / "tiny.yaml").write_text(
        f"family: transformers\nmodel: {json.dumps(model_of(folder))}\n"
        f"prompts: {{tasks: {{asr: '<SpeechHere>{asked}'}}}}\ngenerate: {{max_new_tokens: 8, batch_size: 4}}\n"
    )
    arguments = ["--recipe", tmp_path / "tiny.yaml", "--annotation", tmp_path / "rows.json", "--audio-root", clips]
    assert nota("infer", *arguments, "--out", tmp_path / "o.csv") == 0
    with (tmp_path / "o.csv").open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    own = [own_text(kind, folder, wave).lower() for wave in waves(clips)]
    assert [text.split() for text in texts] == [text.split() for text in own]  # a line break is a space in a CSV
    assert len(set(texts)) > 1  # or the audio would not matter
    told = "so it runs at batch 1" in " ".join(capsys.readouterr().err.split())
    assert told == (kind in LEAK) or kind in LEAK_A_LITTLE


def test_a_batch_and_a_watched_answer(kind: str, folder: Path, clips: Path) -> None:
    model = build(recipe_of(folder), purpose="run")
    assert isinstance(model, PublicModel)
    features = model.preprocessor().features(waves(clips))
    together = [answer.text for answer in model.generate_answers(features, [query(kind)] * 5)]
    alone = [model.generate_answers(features.part(slice(i, i + 1)), [query(kind)])[0].text for i in range(5)]
    assert (together == alone) == (kind not in LEAK) or kind in LEAK_A_LITTLE
    said: list[str] = []
    whole = model.generate_answers(features.part(slice(0, 1)), [query(kind)], on_text=said.append)[0].text
    assert whole == alone[0] == (said[-1] if said else "")


def test_a_request_for_the_transcript(kind: str, folder: Path, clips: Path) -> None:
    if kind not in REQUESTS:
        pytest.skip("its processor has no such request")
    model = build(recipe_of(folder), purpose="run")
    features = model.preprocessor().features(waves(clips))
    texts = [model.generate_answers(features.part(slice(i, i + 1)), [Query("asr")])[0].text for i in range(5)]
    assert texts == [own_text(kind, folder, wave, prompt="") for wave in waves(clips)]
    assert len(set(texts)) > 1


def test_parts_add_up_and_dummy_weights_have_the_same_size(folder: Path) -> None:
    model = build(recipe_of(folder), purpose="run")
    whole = sum(parameter.numel() for parameter in {id(p): p for p in model.model.parameters()}.values())
    sizes = {part.name: part.parameters for part in model.parts()}
    adapted = (folder / "adapter_config.json").exists() or "adapter" in model_of(folder)
    assert set(sizes) == {"speech_encoder", "decoder"} | ({"lora"} if adapted else set())
    assert sum(sizes.values()) == whole
    sizes.pop("lora", None)  # which a dummy has not
    dummy = build(recipe_of(folder), load_format="dummy")
    assert {part.name: part.parameters for part in dummy.parts()} == sizes


@pytest.mark.filterwarnings("error:`past_key_values`:FutureWarning")  # of models, of a name that is no more
def test_efficiency(nota: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(f"family: transformers\nmodel: {{path: {folder}}}\n")
    assert nota("efficiency", "--recipe", file, "--rounds", 3, "--tokens", 2, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["runtime"] == "transformers"
    assert {"speech_encoder", "prefill", "tpot"} <= set(report["seconds"])
    medians = {name: figures["median"] for name, figures in report["seconds"].items()}
    assert medians["features"] > 1e-4  # the processor's, and no part of the time from features on
    assert report["seconds"]["features"]["count"] == report["seconds"]["prefill"]["count"]
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


def test_the_language_that_is_named_first_is_no_part_of_the_transcript(clips: Path, tmp_path: Path) -> None:
    model = build(recipe_of(public_models.make("qwen3_asr", tmp_path / "m")), purpose="run")
    assert isinstance(model, PublicModel)
    model.processor.batch_decode = lambda ids, **_: ["language English<asr_text>seven one"]
    features = model.preprocessor().features(waves(clips)[:1])
    assert model.generate_answers(features, [Query("asr")])[0].text == "seven one"


def test_a_lora_beside_the_weights_is_used_and_goes_into_packed_ones(clips: Path, tmp_path: Path) -> None:
    public_models_extra.skip_without_packages("granite_speech")
    folder = public_models.make("granite_speech", tmp_path / "m", public_models_extra.MAKERS)

    def logits(quantization: str) -> torch.Tensor:
        model = build(recipe_of(folder, quantization=quantization), purpose="run")
        assert isinstance(model, PublicModel)
        inputs = model.inputs(model.preprocessor().features(waves(clips)[:1]), [Query("QA", PROMPT)])
        with torch.inference_mode():
            return model.model(**inputs).logits

    adapted, packed = logits("none"), logits("int8")
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_model.safetensors").unlink()
    effect = (adapted - logits("none")).norm()
    assert effect > 0
    assert (adapted - packed).norm() < effect / 4


@pytest.mark.parametrize("kind", SEES)
def test_a_processor_without_its_eyes_hears_the_same(
    kind: str, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision", reason="the whole processor needs torchvision")
    folder = public_models.make(kind, tmp_path / "m", public_models_extra.MAKERS)

    def inputs() -> dict[str, Any]:
        model = PublicModel(recipe_of(folder), torch.nn.Linear(1, 1), load_processor(recipe_of(folder)))
        model.model.device, model.model.dtype = torch.device("cpu"), torch.float32
        return model.inputs(model.preprocessor().features(waves(clips)), [Query("QA", PROMPT)] * 5)

    whole = inputs()
    monkeypatch.setattr("nota_cli.models.families.public_load.find_spec", lambda name: None)
    blind = inputs()
    assert whole.keys() == blind.keys()
    assert all(torch.equal(whole[name], blind[name]) for name in whole)


class TestRefusals:
    def write(self, folder: Path, **config: Any) -> PublicRecipe:
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        return recipe_of(folder)

    def test_a_type_that_transformers_does_not_know(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="knows no model type 'ears'"):
            build(self.write(tmp_path / "m", model_type="ears"))

    @pytest.mark.parametrize("kind", PACKAGES)
    def test_a_package_that_is_not_there(self, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nota_cli.models.families.public_load.find_spec", lambda name: None)
        package = PACKAGES[kind].replace("_", "-")
        with pytest.raises(RecipeError, match=rf"needs the package {package}, .* pip install 'nota-cli\[public\]'"):
            build(self.write(tmp_path / "m", model_type=kind))

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

    def test_a_lora_that_is_not_whole_or_not_there(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = public_models.make("phi4_multimodal", tmp_path / "m", public_models_extra.MAKERS)
        file = folder / "speech-lora" / "adapter_model.safetensors"
        tensors = load_file(file)
        tensors.pop(next(iter(tensors)))
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=r"speech-lora: its weights do not fit the model:\n  - missing: "):
            build(recipe_of(folder))
        file.unlink()
        with pytest.raises(CheckpointError, match="adapter .*speech-lora: "):
            build(recipe_of(folder))

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
