"""What a model says of one clip."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        text: up to the end symbol.
        looped: the end of what it said first repeated itself (`nota_cli.generation.repetition`); whether the text was
            changed for that, the loop guard decides.
        tokens: how many were generated for the text, the end included.
    """

    text: str
    looped: bool = False
    tokens: int = 0
