"""Templates and task prompts, as the text before and after the audio."""

from dataclasses import dataclass

from nota_cli.errors import RecipeError
from nota_cli.recipe.prompts import PLACES, SUMMARY_PLACE, Prompts


@dataclass(frozen=True)
class Query:
    """What is asked of one clip: its task, and the question where the task has one.

    `key` tells the clip from others where answers are drawn: the same key, the same draw.
    """

    task: str
    question: str | None = None
    key: str = ""


def wrap(prompts: Prompts, query: Query) -> tuple[str, str]:
    """The text before and after the audio for one row.

    The question of a QA row replaces the `{}` of its task's prompt, as the organisers do.

    Raises:
        RecipeError: the recipe has no prompt for the task, or it needs a question and the row has none.
    """
    task, question = query.task, query.question
    if task not in prompts.tasks:
        raise RecipeError(
            f"no prompt for task {task!r}; add it under prompts.tasks (there: {', '.join(prompts.tasks)})"
        )
    prompt = prompts.tasks[task]
    if "{}" in prompt:
        if not question:
            raise RecipeError(f"the prompt of task {task!r} asks for a question, and the row has no Q")
        prompt = prompt.replace("{}", question)
    text = prompts.system + prompts.template.replace("{}", prompt)
    before, _, after = text.partition(next(place for place in PLACES if place in text))
    return before, after


def wants_summary(prompts: Prompts, query: Query) -> bool:
    """Whether a task's prompt takes the embeddings that sum a clip up, rather than those of its windows."""
    return SUMMARY_PLACE in prompts.tasks.get(query.task, "")
