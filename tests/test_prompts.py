import pytest

from nota_cli.errors import RecipeError
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.prompts import Prompts


def test_the_organisers_template_splits_round_the_audio() -> None:
    before, after = wrap(Prompts(), Query("asr"))
    assert before == "USER: <Speech>"
    assert after == "</Speech> Recognize the speech and give me the transcription.\nASSISTANT:"


def test_a_question_with_braces_is_taken_as_it_is() -> None:
    _, after = wrap(Prompts(), Query("QA", "what is {} here?"))
    assert after == "</Speech> what is {} here?\nASSISTANT:"


def test_system_text_comes_first() -> None:
    before, _ = wrap(Prompts(system="Be brief.\n"), Query("asr"))
    assert before == "Be brief.\nUSER: <Speech>"


@pytest.mark.parametrize("query", [Query("singing"), Query("QA"), Query("QA", "")])
def test_a_task_without_prompt_or_question_is_an_error(query: Query) -> None:
    with pytest.raises(RecipeError):
        wrap(Prompts(), query)
