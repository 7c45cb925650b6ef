"""The section `generate`: settings for some tasks, and those that do not go together."""

from pathlib import Path

import pytest

from helpers.recipes import SALMONN
from nota_cli.errors import RecipeError
from nota_cli.recipe.load import dump_recipe, load_recipe, recipe_hash
from nota_cli.recipe.schema import Generate, GenerateTask


def test_a_task_has_what_it_names_and_the_rest_from_above() -> None:
    generate = Generate(beams=2, seed=7, tasks={"asr": {"beams": 4}, "QA": {"sample": True, "beams": 1}})
    assert generate.for_task("asr") == Generate(beams=4, seed=7)
    assert generate.for_task("QA") == Generate(beams=1, seed=7, sample=True)
    assert generate.for_task("audiocaption") == Generate(beams=2, seed=7)
    assert generate.for_task("asr").for_task("QA") == generate.for_task("asr")


def test_a_default_that_differs_from_the_recipes_own_value_is_written_and_read_again(tmp_path: Path) -> None:
    recipe = load_recipe("tiny", ["generate.beams=1", "generate.tasks.asr.beams=4"])
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    again = load_recipe(str(tmp_path / "again.yaml"))
    assert again.generate == recipe.generate
    assert again.generate.for_task("asr").beams == 4
    assert again.generate.tasks["asr"].model_fields_set == {"beams"}
    assert recipe_hash(recipe) != recipe_hash(load_recipe("tiny", ["generate.beams=1"]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("generate.tasks.asr.beems=1", "generate.tasks.asr.beems: unknown key; did you mean beams?"),
        ("generate.tasks.asr.tasks={}", "generate.tasks.asr.tasks: unknown key"),
        ("generate.tasks.asr.merge_lora=never", "generate.tasks.asr.merge_lora: unknown key"),
        ("generate.tasks.aac.beams=1", "generate.tasks: no prompt for aac"),
        ("generate.tasks.asr.beams=0", "generate.tasks.asr.beams"),
        ("generate.temperature=0", "generate.temperature"),
        ("generate.temperature=.inf", "generate.temperature"),
        ("generate.top_p=0", "generate.top_p"),
        ("generate.top_p=1.1", "generate.top_p"),
        ("generate.top_k=-1", "generate.top_k"),
        ("generate.loop_guard=on", "generate.loop_guard"),
        ("generate.fallback_text=' '", "generate.fallback_text"),
        ("generate={beams: 4, sample: true}", "`beams` has to be 1, not 4"),
        ("generate.tasks.asr={beams: 2, sample: true}", "tasks.asr: `sample` draws one answer"),
    ],
)
def test_mistakes_are_named(setting: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("tiny", [setting])
    assert message in str(caught.value)


def test_no_shipped_recipe_changes_what_a_model_says() -> None:
    own = {"small", "small-connector", "small-decoder"}  # this project's own: its figures are measured with these
    for name in set(SALMONN) - own:
        generate = load_recipe(name).generate
        assert (generate.sample, generate.loop_guard, generate.tasks) == (False, "off", {})
    for name in own:
        speech = load_recipe(name).generate.for_task("asr")
        assert (speech.sample, speech.loop_guard, speech.beams) == (False, "cut", 4)


def test_tasks_take_every_setting_but_those_of_the_whole_model() -> None:
    assert set(Generate.model_fields) - set(GenerateTask.model_fields) == {"tasks", "merge_lora", "compute"}
