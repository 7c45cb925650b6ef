"""What a runtime offers so that a model's cost can be measured stage by stage, whoever computes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from nota_cli.prompts import Query

Span = tuple[str, Any, Any]
"""A part, and what was read before and after it ran."""


class Runtime(Protocol):
    """One clip through a model: encoders and connector, prefill, decode steps; the end of an answer is not looked for.

    Attributes:
        name: such as `torch` or `onnx`.
        decoding: how tokens are decoded, in words.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def decoding(self) -> str: ...  # noqa: D102

    def prompt(self, features: Any, query: Query) -> Any:
        """Encoders and connector: what the decoder gets to see."""

    def prefill(self, prompt: Any, query: Query) -> None:
        """The decoder over the prompt, and the first token."""

    def step(self) -> None:
        """One token more."""

    def cache_bytes(self) -> int:
        """Bytes of keys and values."""

    def watch(
        self, read: Callable[[], Any], on_part: Callable[[str], None] = lambda name: None
    ) -> AbstractContextManager[list[Span]]:
        """Inside, what `read` gives is collected before and after an encoder or the connector runs.

        So it is round a processor that makes the features together with the prompt, as the part `features`.

        Args:
            read: such as a clock.
            on_part: called with the name of the part that runs from now on, `decoder` after each.
        """
