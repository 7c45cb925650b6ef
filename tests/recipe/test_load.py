from pathlib import Path

import pytest

from nota_cli.errors import RecipeError
from nota_cli.recipe.load import dump_recipe, load_any_recipe, load_recipe, recipe_hash, recipe_names

MINIMAL = "speech_encoder: {path: openai/whisper-large-v3-turbo}\ndecoder: {path: some/decoder}\n"


@pytest.fixture
def write(tmp_path: Path):
    def writer(text: str, name: str = "mine.yaml") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return writer


@pytest.mark.parametrize("name", sorted(recipe_names()))
def test_every_shipped_recipe_loads_and_begins_with_the_command_that_runs_it(name: str) -> None:
    first = recipe_names()[name].read_text().splitlines()[0]
    assert first.startswith("# ")
    trained_first = (
        name in ("tiny-stage1", "tiny-stages", "tiny-samples", "small-connector", "small-decoder")
        or recipe_names()[name].parent.name == "trials"
    )
    assert f"nota {'train' if trained_first else 'infer'}" in first
    assert load_any_recipe(name).name == name


def test_all_errors_are_reported_at_once_with_near_keys(write) -> None:
    path = write(
        "speech_encoder: {path: a, dtyp: float32}\nconector: {}\ndecoder: {}\n"
        "train: {augment: {spede: 1}, steps: -1}\ndata: {train: [{anotation: x}]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    for expected in (
        "speech_encoder.dtyp: unknown key; did you mean dtype?",
        "conector: unknown key; did you mean connector?",
        "decoder: give either `path`",
        "train.augment.spede: unknown key; did you mean speed?",
        "train.steps: Input should be greater than 0",
        "data.train.0.anotation: unknown key; did you mean annotation?",
        "data.train.0.audio_root: missing",
    ):
        assert expected in message


def test_unknown_recipe_suggests_near_names() -> None:
    with pytest.raises(RecipeError, match="did you mean tiny"):
        load_recipe("tiyn")


def test_settings_change_values_and_their_types_are_checked(write) -> None:
    path = write(MINIMAL)
    recipe = load_recipe(path, ["generate.beams=1", "lora.targets=[q_proj]", "prompts.tasks.asr='<SpeechHere> go'"])
    assert recipe.generate.beams == 1
    assert recipe.lora is not None
    assert recipe.lora.targets == ["q_proj"]
    assert recipe.prompts.tasks["asr"] == "<SpeechHere> go"
    for bad in ("generate.beams=none", "generate.beam=1", "beams", "name.first=1", "generate.beams=[1"):
        with pytest.raises(RecipeError):
            load_recipe(path, [bad])


def test_base_gives_what_a_recipe_leaves_out(write) -> None:
    write(MINIMAL + "generate: {beams: 2, max_new_tokens: 7}\n", "parent.yaml")
    recipe = load_recipe(write("base: parent\ngenerate: {beams: 3}\n", "child.yaml"))
    assert (recipe.generate.beams, recipe.generate.max_new_tokens) == (3, 7)
    assert recipe.name == "child"


def test_a_circle_of_bases_is_an_error(write) -> None:
    write("base: b\n", "a.yaml")
    with pytest.raises(RecipeError, match="circle"):
        load_recipe(write("base: a\n", "b.yaml"))


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\tx: 1"])
def test_what_is_no_recipe_is_a_clear_error(write, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(text))


def test_paths_are_relative_to_the_recipe_and_hub_ids_stay(write, tmp_path: Path) -> None:
    (tmp_path / "whisper").mkdir()
    text = "speech_encoder: {path: whisper}\ndecoder: {path: google/gemma-2-2b-it}\ncheckpoint: ./later\n"
    recipe = load_recipe(write(text))
    assert recipe.speech_encoder.path == str(tmp_path / "whisper")
    assert recipe.decoder.path == "google/gemma-2-2b-it"
    assert recipe.checkpoint == str(tmp_path / "later")


def test_dumped_recipe_reads_back_equal_and_the_hash_follows_values(write) -> None:
    recipe = load_recipe(write(MINIMAL + "lora: {}\n"))
    again = load_recipe(write(dump_recipe(recipe), "again.yaml"))
    assert again == recipe
    assert recipe_hash(again) == recipe_hash(recipe)
    assert recipe_hash(load_recipe(write(MINIMAL), ["generate.beams=1"])) != recipe_hash(recipe)


def test_a_key_given_twice_is_an_error_in_recipe_base_and_setting(write) -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml .*'generate' is on line 3 and again on line 5"):
        load_recipe(write(MINIMAL + "generate: {beams: 1}\nname: x\ngenerate: {batch_size: 2}\n"))
    write(MINIMAL + "train:\n  steps: 1\n  steps: 2\n", "parent.yaml")
    with pytest.raises(RecipeError, match=r"parent\.yaml .*'steps' is on line 4 and again on line 5"):
        load_recipe(write("base: parent\n"))
    with pytest.raises(RecipeError, match="'beams' is on line 1"):
        load_recipe(write(MINIMAL), ["generate={beams: 1, beams: 2}"])


def test_words_that_yaml_1_1_takes_for_booleans_stay_words(write) -> None:
    recipe = load_recipe(write(MINIMAL + "generate: {loop_guard: off, fallback_text: no}\ntrain: {autocast: false}\n"))
    assert (recipe.generate.loop_guard, recipe.generate.fallback_text, recipe.train.autocast) == ("off", "no", False)
    assert load_recipe(write(MINIMAL), ["generate.loop_guard=off"]).generate.loop_guard == "off"
    again = load_recipe(write(dump_recipe(recipe), "again.yaml"))
    assert again.generate == recipe.generate
    config = "speech_encoder: {config: {d_model: 64, init_std: 1e-2}}\ndecoder: {path: some/decoder}\n"
    assert load_recipe(write(config)).speech_encoder.config == {"d_model": 64, "init_std": 0.01}


def test_settings_merge_as_a_base_does(write) -> None:
    path = write(MINIMAL + "generate: {beams: 3, max_new_tokens: 7}\nlora: null\n")
    recipe = load_recipe(path, ["generate={beams: 2}", "lora.rank=4", "generate.batch_size=2", "generate.beams=2"])
    assert (recipe.generate.beams, recipe.generate.max_new_tokens, recipe.generate.batch_size) == (2, 7, 2)
    assert recipe.lora is not None
    assert recipe.lora.rank == 4
    assert load_recipe(path, ["data={validation: []}"]).data.validation == []


@pytest.mark.parametrize(
    "settings",
    [
        ["generate.beams=1", "generate.beams=2"],
        ["generate={beams: 1}", "generate.beams=2"],
        ["lora=null", "lora.rank=4"],
        ["generate.beams.x=1", "generate.beams=1"],
        ["generate.beams=1", "generate.beams=true"],
    ],
)
def test_settings_that_contradict_each_other_are_refused(write, settings) -> None:
    with pytest.raises(RecipeError, match="contradict"):
        load_recipe(write(MINIMAL), settings)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("generate.beam=1", "did you mean beams"),
        ("generate=null", "generate"),
        ("data.train.0.weight=2", "data.train"),
        ("..=1", "write it as key=value"),
        ("generate={1: 2}", "the key 1 is no text"),
    ],
)
def test_settings_that_no_recipe_takes_are_named(write, setting, expected) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe(write(MINIMAL), [setting])


def test_rows_that_are_read_in_order_are_not_joined_with_others(write) -> None:
    source = "annotation: a.json, audio_root: a, shuffle_buffer: 8"
    for other in ("join: 2", "mix_same_label: 0.5"):
        with pytest.raises(RecipeError, match="`shuffle_buffer` reads rows as they lie.*leave out one"):
            load_recipe(write(f"{MINIMAL}data: {{train: [{{{source}, {other}}}]}}"))


def test_home_is_written_out_wherever_a_recipe_or_a_setting_names_a_path(write, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = "{annotation: ~/a.json, audio_root: ~/audio, background: ~/b.json, background_root: file:///c%20d}"
    text = (
        f"speech_encoder: {{path: ~/whisper}}\ndecoder: {{path: ~/lm, tokenizer: ~/tok}}\ncheckpoint: ~/c\n"
        f"data: {{train: [{source}]}}\n"
    )
    recipe = load_recipe(write(text), ["train.init=~/init"])
    home = str(tmp_path)
    assert (recipe.speech_encoder.path, recipe.decoder.path) == (f"{home}/whisper", f"{home}/lm")
    assert (recipe.decoder.tokenizer, recipe.checkpoint, recipe.train.init) == (
        f"{home}/tok",
        f"{home}/c",
        f"{home}/init",
    )
    train = recipe.data.train[0]
    assert (train.annotation, train.audio_root, train.background) == (
        f"{home}/a.json",
        f"{home}/audio",
        f"{home}/b.json",
    )
    assert train.background_root == "/c d"
    assert load_recipe("~/mine.yaml") == recipe.model_copy(update={"train": load_recipe("~/mine.yaml").train})
    with pytest.raises(RecipeError, match="no user 'nobody-of-this-name'"):
        load_recipe(write(MINIMAL), ["checkpoint=~nobody-of-this-name/x"])


def test_near_recipes_are_named(write, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    write(MINIMAL, "recipes/mine.yml")
    for near in ("recipes/mine", "recipes/mine.yaml", "recipes/Mine.yml", "recipes\\mine.yml"):
        with pytest.raises(RecipeError, match=r"did you mean recipes/mine\.yml\?"):
            load_recipe(near)
    with pytest.raises(RecipeError, match=r"a folder without recipe\.yaml"):
        load_recipe("recipes")
    with pytest.raises(RecipeError, match="did you mean .*salmonn-7b"):
        load_recipe("SALMONN-7B")


def test_what_a_shipped_recipe_names_and_nota_does_not_ship_is_in_the_working_folder() -> None:
    stage1, tiny = load_recipe("tiny-stage1"), load_recipe("tiny")
    expected = "data/fsdd-train.json"
    assert stage1.data.train[0].annotation.endswith(expected)
    if not Path(stage1.data.train[0].annotation).is_absolute():  # the clone has no corpora of its own
        assert stage1.data.train[0].annotation == expected
    assert Path(tiny.data.test["asr"].annotation).is_file()


def test_keys_of_earlier_versions_are_read_as_todays(write) -> None:
    path = write("speech_encoder: {path: a, quantisation: int8}\ndecoder: {path: b, quantisation: gptq}\n")
    loaded = load_recipe(path, ["speech_encoder.quantisation=int4"])
    assert (loaded.speech_encoder.quantization, loaded.decoder.quantization) == ("int4", "gptq")
    assert "quantisation" not in dump_recipe(loaded)
