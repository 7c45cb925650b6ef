from pathlib import Path

import pytest

from nota_cli.errors import RecipeError
from nota_cli.recipe.load import dump_recipe, load_recipe, recipe_hash, recipe_names

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
    trained_first = name == "tiny-stage1" or recipe_names()[name].parent.name == "trials"
    assert f"nota {'train' if trained_first else 'infer'}" in first
    assert load_recipe(name).name == name


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
