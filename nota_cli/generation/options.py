"""When an answer ends, and how its tokens are chosen."""

from dataclasses import dataclass

from nota_cli.generation.draws import Sampling


@dataclass(frozen=True)
class DecodingOptions:
    """What ends a row, what follows its end, how repeated tokens are penalized (Keskar et al. 2019), what is drawn."""

    max_new_tokens: int
    end_ids: tuple[int, ...]
    pad_id: int
    repetition_penalty: float = 1.0
    sampling: Sampling | None = None
