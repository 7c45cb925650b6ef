import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nota_cli.errors import RecipeError
from nota_cli.recipe.importer import Imported, import_config
from nota_cli.recipe.schema import Recipe

CONFIGS = Path(__file__).with_name("configs")
TRAINING = (CONFIGS / "training.yaml").read_text()
EVALUATION = (CONFIGS / "evaluation.yaml").read_text()
TWO_STAGES = (CONFIGS / "two_stages.yaml").read_text()
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(content: str | dict[str, Any], name: str = "configs/mine.yaml", **files: Any) -> Path:
        for place, value in files.items():
            (tmp_path / "prompts").mkdir(exist_ok=True)
            (tmp_path / "prompts" / f"{place}.json").write_text(json.dumps(value))
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))  # which is YAML
        return file

    return make


def changed(text: str, **changes: Any) -> dict[str, Any]:
    """The config with some keys (dots written as two underscores) set, or taken out where the value is `...`."""
    content = yaml.safe_load(text)
    for key, value in changes.items():
        *sections, last = key.split("__")
        node = content
        for section in sections:
            node = node.setdefault(section, {})
        if value is ...:
            del node[last]
        else:
            node[last] = value
    return content


def recipe_of(imported: Imported) -> Recipe:
    return Recipe.model_validate(imported.values)


def test_the_organisers_training_config(write: Write) -> None:
    imported = import_config(write(TRAINING))
    recipe = recipe_of(imported)
    assert recipe.name == "mine"
    assert recipe.checkpoint == "/runs/stage1.pth"
    assert (recipe.speech_encoder.path, recipe.speech_encoder.train) == ("openai/whisper-large-v2", False)
    assert recipe.audio_encoder.kind == "beats"
    assert recipe.audio_encoder.path == "/weights/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
    connector = recipe.connector
    assert (connector.queries, connector.window_seconds, connector.stride_seconds) == (2, 0.25, 0.125)
    assert connector.train
    decoder = recipe.decoder
    assert (decoder.path, decoder.quantization, decoder.dtype, decoder.pad_token, decoder.bos_token) == (
        "meta-llama/Llama-3.2-3B-Instruct",
        "none",
        "float16",
        "[PAD]",
        None,
    )
    assert recipe.lora is not None
    assert (recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout) == (16, 64, 0.2)
    assert recipe.lora.targets == ["q_proj", "v_proj"]
    assert (recipe.prompts.template, recipe.prompts.end_symbol) == ("USER: {}\nASSISTANT:", "<|end_of_text|>")
    source = {"annotation": "/data/stage1_train.json", "audio_root": "/audio"}
    assert [one.model_dump(include=set(source)) for one in recipe.data.train] == [source]
    assert recipe.data.validation[0].annotation == "/data/stage1_valid.json"
    assert {one.annotation for one in recipe.data.test.values()} == {"/data/stage1_test.json"}
    train = recipe.train
    assert (train.steps, train.warmup_steps, train.accumulation, train.batch_size) == (45000, 2000, 2, 8)
    assert (train.learning_rate, train.minimum_rate, train.warmup_rate) == (3e-5, 1e-5, 2e-6)
    assert (train.weight_decay, train.beta2, train.seed, train.workers, train.autocast) == (0.04, 0.998, 42, 3, True)
    assert (train.validate_every, train.save_every) == (1500, 1500)
    assert recipe.generate.batch_size == 4
    assert imported.unknown == []


def test_a_team_s_evaluation_config(write: Write) -> None:
    imported = import_config(write(EVALUATION))
    recipe = recipe_of(imported)
    assert recipe.checkpoint is None
    assert (recipe.decoder.quantization, recipe.decoder.dtype) == ("nf4", "bfloat16")
    assert recipe.lora is not None
    assert set(recipe.lora.targets) == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    generate = recipe.generate
    assert (generate.beams, generate.max_new_tokens, generate.batch_size) == (5, 120, 6)
    assert (generate.repetition_penalty, generate.length_penalty) == (1.5, 0.8)
    assert recipe.prompts.end_symbol == "<|end_of_text|>"  # where their answers are cut
    assert {task: one.annotation for task, one in recipe.data.test.items()} == {
        "asr": "/data/test_asr.json",
        "aac": "/data/test_aac.json",
    }
    assert recipe.train.augment.noise == 0.3
    assert recipe.train.steps == Recipe.model_fields["train"].default.steps
    assert imported.unknown == []


def test_two_stages_in_one_file_and_names_of_other_teams(write: Write) -> None:
    file = write(TWO_STAGES)
    imported = import_config(file)
    recipe = recipe_of(imported)
    assert (recipe.decoder.path, recipe.decoder.quantization) == ("org/gemma-2-2b-it-GPTQ", "gptq")
    assert (recipe.audio_encoder.kind, recipe.audio_encoder.path) == ("ced", "mispeech/ced-small")
    assert (recipe.audio_encoder.scaling, recipe.audio_encoder.token_order) == ("beats", "frequency")
    assert recipe.lora is not None  # their code's default
    assert not recipe.connector.train
    assert (recipe.train.steps, recipe.train.warmup_steps, recipe.train.learning_rate) == (200, 500, 1e-4)
    assert recipe.data.train[0].annotation == "/data/second.json"
    assert recipe.data.validation[0].annotation == "/data/valid.json"
    assert set(recipe.data.test) == {"asr", "aac"}
    assert imported.unknown == []
    first = recipe_of(import_config(file, stage=1))
    assert (first.train.steps, first.train.warmup_steps, first.train.learning_rate) == (100, 300, 5e-5)
    assert first.data.train[0].annotation == "/data/first.json"
    assert first.data.validation == []


def leaves(node: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, value in node.items():
        found += leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return found


def at(node: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path[:-1]:
        node = node[key]
    return node


EVERY_KEY = [(text, path) for text in (TRAINING, EVALUATION, TWO_STAGES) for path in leaves(yaml.safe_load(text))]


def noted(imported: Imported) -> set[str]:
    return {key for note in imported.notes for key in note.partition(": ")[0].split(", ")}


@pytest.mark.parametrize(("text", "path"), EVERY_KEY, ids=[".".join(path) for _, path in EVERY_KEY])
def test_no_key_vanishes(write: Write, text: str, path: tuple[str, ...]) -> None:
    content = yaml.safe_load(text)
    plain = import_config(write(content))
    if ".".join(path) in noted(plain):
        return
    section = at(content, path)
    before = section[path[-1]]
    for other in [not before] if isinstance(before, bool) else ["something {}else", "else/where", 0.5, 7]:
        section[path[-1]] = other
        try:
            imported = import_config(write(content))
        except RecipeError:
            return
        if (imported.values, imported.notes) != (plain.values, plain.notes):
            return
    pytest.fail("neither noted nor used: no other value makes another recipe")


@pytest.mark.parametrize(("text", "path"), EVERY_KEY, ids=[".".join(path) for _, path in EVERY_KEY])
def test_a_misspelt_key_is_reported(write: Write, text: str, path: tuple[str, ...]) -> None:
    content = yaml.safe_load(text)
    section = at(content, path)
    section[f"{path[-1]}x"] = section.pop(path[-1])
    if path[-1] in ("llama_path", "gemma_path", "whisper_path") and path[0] == "model":
        with pytest.raises(RecipeError, match="is missing or empty"):
            import_config(write(content))
        return
    imported = import_config(write(content))
    name = f"{'.'.join(path)}x"
    whole_section_is_noted = path[0] == "wandb" or {"output_dir", "augmentation", "optims_1"} & set(path[:-1])
    assert name in (noted(imported) if whole_section_is_noted else imported.unknown)


def test_a_whole_unknown_section(write: Write) -> None:
    content = changed(TRAINING, extra__deep__key=1, top=2, model__new__deep=3)
    assert sorted(import_config(write(content)).unknown) == ["extra.deep.key", "model.new.deep", "top"]


def test_two_names_for_one_key(write: Write) -> None:
    content = changed(TRAINING, model__gemma_path="org/other")
    imported = import_config(write(content))
    assert recipe_of(imported).decoder.path == "meta-llama/Llama-3.2-3B-Instruct"
    assert imported.unknown == ["model.gemma_path"]


def test_secrets_stay_out(write: Write) -> None:
    for text in (TRAINING, TWO_STAGES):
        imported = import_config(write(text))
        assert "OfSomebody" not in json.dumps([imported.values, imported.notes, imported.unknown])
        assert any("HF_TOKEN" in note for note in imported.notes)


def test_numbers_and_booleans_may_be_strings(write: Write) -> None:
    content = changed(
        TRAINING, run__optims__init_lr="4e-5", model__lora_rank="12", model__freeze_whisper="false", run__amp="no"
    )
    recipe = recipe_of(import_config(write(content)))
    assert recipe.train.learning_rate == 4e-5
    assert recipe.lora is not None
    assert recipe.lora.rank == 12
    assert recipe.speech_encoder.train
    assert not recipe.train.autocast


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model__lora_rank": "eight"}, "model.lora_rank is 'eight', not a number"),
        ({"model__lora_rank": 8.5}, "model.lora_rank is 8.5, not a whole number"),
        ({"model__lora": "perhaps"}, "model.lora is 'perhaps', not true or false"),
        ({"model__ckpt": ["a", "b"]}, "model.ckpt is ['a', 'b'], not a text"),
        ({"model__whisper_path": ""}, "model.whisper_path is missing or empty"),
        ({"model__llama_path": ...}, "model.llama_path is missing or empty"),
        ({"model__use_speech_Qformer": False}, "model.use_speech_Qformer is false"),
        ({"model__prompt_template": "USER:"}, "prompts"),
        ({"run__optims__beta2": 2}, "train.beta2"),
        ({"model": ...}, "no section `model`"),
        ({"model": "salmonn"}, "no section `model`"),
    ],
)
def test_what_cannot_be_imported(write: Write, changes: dict[str, Any], words: str) -> None:
    file = write(changed(TRAINING, **changes))
    with pytest.raises(RecipeError) as caught:
        import_config(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_a_config(write: Write, tmp_path: Path) -> None:
    conflict = TRAINING.replace("datasets:", "<<<<<<< HEAD\ndatasets:")  # one was published like this
    for file in (write(conflict), write("- a\n- b\n"), write(""), tmp_path / "none.yaml", tmp_path):
        with pytest.raises(RecipeError, match="mine.yaml|none.yaml|cannot be read"):
            import_config(file)


@pytest.mark.parametrize(
    ("changes", "quantization", "dtype"),
    [
        ({}, "none", "float16"),
        ({"llama_path": "/models/gemma-2-2B-4Bit-GPTQ"}, "gptq", "float16"),
        ({"llama_path": "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit"}, "nf4", "bfloat16"),
        ({"qlora": True}, "nf4", "bfloat16"),
        ({"qlora": False}, "none", "float16"),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "torch.float16"}, "nf4", "float16"),
        ({"load_in_4bit": True, "llama_path": "org/llama-gptq"}, "gptq", "float16"),
    ],
)
def test_quantization(write: Write, changes: dict[str, Any], quantization: str, dtype: str) -> None:
    decoder = recipe_of(
        import_config(write(changed(TRAINING, **{f"model__{k}": v for k, v in changes.items()})))
    ).decoder
    assert (decoder.quantization, decoder.dtype) == (quantization, dtype)


def test_a_folder_s_own_config_tells_its_quantization(write: Write, tmp_path: Path) -> None:
    for method, quantization in (("gptq", "gptq"), ("bitsandbytes", "nf4"), (None, "none")):
        folder = tmp_path / "models" / "gptq-by-name-alone"
        folder.mkdir(parents=True, exist_ok=True)
        stored = {} if method is None else {"quantization_config": {"quant_method": method}}
        (folder / "config.json").write_text(json.dumps(stored))
        decoder = recipe_of(
            import_config(write(changed(TRAINING, model__llama_path="models/gptq-by-name-alone")))
        ).decoder
        assert decoder.path == str(folder)  # found from the config's folder upwards
        assert decoder.quantization == quantization


def test_other_encoders(write: Write) -> None:
    for path, kind in (
        ("", "none"),
        ("worstchan/EAT-base_epoch30_pretrain", "eat"),
        ("/w/audiotransformer_small_mAP_4958.pt", "ced"),
        ("/eat/ced/BEATs_iter3.pt", "beats"),
    ):
        assert recipe_of(import_config(write(changed(TRAINING, model__beats_path=path)))).audio_encoder.kind == kind
    qwen = recipe_of(import_config(write(changed(TRAINING, model__llama_path="Qwen/Qwen2.5-0.5B-Instruct"))))
    assert qwen.decoder.bos_token == "<|im_start|>"
    distilled = changed(TRAINING, model__llama_path="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    assert recipe_of(import_config(write(distilled))).decoder.bos_token is None


def test_switches_of_the_connector_and_lora(write: Write) -> None:
    whole = recipe_of(import_config(write(changed(TRAINING, model__window_level_Qformer=False))))
    assert (whole.connector.window_seconds, whole.connector.stride_seconds) == (30.0, 30.0)
    half = import_config(write(changed(TRAINING, model__freeze_speech_llama_proj=True)))
    assert recipe_of(half).connector.train
    assert any("model.freeze_speech_QFormer, model.freeze_speech_llama_proj: " in note for note in half.notes)
    without = import_config(write(changed(TRAINING, model__lora=False)))
    assert recipe_of(without).lora is None
    assert "model.lora_rank, model.lora_alpha, model.lora_dropout: model.lora is false" in without.notes
    assert recipe_of(import_config(write(changed(TRAINING, model__lora=False, model__qlora=True)))).lora is not None


def test_epochs_that_end_with_the_data(write: Write) -> None:
    imported = import_config(write(changed(TRAINING, run__epoch_based=True)))
    assert "steps" not in imported.values["train"]
    assert any("run.epoch_based" in note and "train.steps" in note for note in imported.notes)


def test_sampling_along_beams_is_noted(write: Write) -> None:
    imported = import_config(write(changed(EVALUATION, generate__do_sample=True)))
    assert any(note.startswith("generate.do_sample: ") for note in imported.notes)
    assert not recipe_of(imported).generate.sample


def test_sampling_without_beams_is_taken_over(write: Write) -> None:
    drawn = {"generate__do_sample": True, "generate__num_beams": 1}
    imported = import_config(write(changed(EVALUATION, **drawn)))
    generate = recipe_of(imported).generate
    assert (generate.sample, generate.temperature, generate.top_p, generate.top_k) == (True, 1.0, 0.9, 50)
    assert not [note for note in imported.notes if "temperature" in note or "do_sample" in note]
    told = import_config(write(changed(EVALUATION, generate__top_k=7, **drawn)))
    assert recipe_of(told).generate.top_k == 7
    assert not told.unknown


def test_prompts_are_read_from_the_file_that_is_named(write: Write, tmp_path: Path) -> None:
    prompts = {
        "asr": "<Speech><SpeechHere></Speech> What is said?",
        "audiocaption": ["<SpeechHere> What is heard?", "<SpeechHere> Describe it."],
        "QA": ["{} <SpeechHere>"],
        "music": "no place for the sound",
    }
    imported = import_config(write(TRAINING, test=prompts))  # prompts/ lies beside configs/
    assert recipe_of(imported).prompts.tasks == {
        "asr": "<Speech><SpeechHere></Speech> What is said?",
        "audiocaption": "<SpeechHere> What is heard?",
        "QA": "{} <SpeechHere>",
    }
    notes = [note for note in imported.notes if note.startswith("model.test_prompt_path: ")]
    assert any("music" in note for note in notes)
    assert any("audiocaption" in note and "first" in note for note in notes)
    (tmp_path / "prompts" / "test.json").write_text('{"asr": ')
    with pytest.raises(RecipeError, match="not JSON of a prompt a task"):
        import_config(tmp_path / "configs" / "mine.yaml")


def test_prompts_that_are_not_there(write: Write) -> None:
    imported = import_config(write(TRAINING))
    assert recipe_of(imported).prompts.tasks == Recipe.model_fields["prompts"].default.tasks
    assert any(note.startswith("model.test_prompt_path: not found") for note in imported.notes)


def test_paths(write: Write, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "here.json").touch()
    content = changed(
        TRAINING,
        datasets__train_ann_path="./data/here.json",
        datasets__valid_ann_path="./data/elsewhere.json",
        datasets__test_ann_path="/data/test_asr_flac.json",
        datasets__prefix="../../nowhere",
    )
    imported = import_config(write(content))
    data = recipe_of(imported).data
    assert data.train[0].annotation == str(tmp_path / "data" / "here.json")
    assert data.validation[0].annotation == "data/elsewhere.json"  # from the working folder, as theirs
    assert set(data.test) == {"asr"}
    assert any(note.startswith("datasets.prefix: relative") for note in imported.notes)


def test_a_model_alone_is_enough(write: Write) -> None:
    content = {"model": {"llama_path": "org/llm", "whisper_path": "org/whisper"}, "datasets": None, "run": {}}
    imported = import_config(write(content))
    recipe = recipe_of(imported)
    assert recipe.audio_encoder.kind == "none"
    assert recipe.lora == Recipe.model_validate({**imported.values, "lora": {}}).lora
    assert imported.unknown == []
    assert imported.notes == []
    student = {"model_S": content["model"], "model_T": {"llama_path": "org/teacher"}}
    imported = import_config(write(student))
    assert recipe_of(imported).decoder.path == "org/llm"
    assert any(note.startswith("model_T.llama_path: ") for note in imported.notes)
