"""The encoders that recipes may name: a new one is a line here and a file that holds all else about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["speech", "audio"]


@dataclass(frozen=True)
class EncoderKind:
    """What reading a recipe has to know of a kind of encoder, torch not imported.

    Attributes:
        module: where it is; its `ENCODER` says the rest (`nota_cli.models.encoders.base.EncoderEntry`).
        role: whether recipes name it as `speech_encoder` or as `audio_encoder`.
        settings: keys of an encoder's section that are for this kind alone.
        file_name: a pattern (searched, in lower case) of the file names that mean it in other systems' configs.
        as_imported: settings that it gets there.
        import_note: what to tell the user then.
    """

    module: str
    role: Role = "audio"
    settings: tuple[str, ...] = ()
    file_name: str | None = None
    as_imported: Mapping[str, Any] = field(default_factory=dict)
    import_note: str | None = None


ENCODERS: dict[str, EncoderKind] = {
    "whisper": EncoderKind("nota_cli.models.encoders.whisper", role="speech"),
    "beats": EncoderKind("nota_cli.models.encoders.beats"),
    "ced": EncoderKind(
        "nota_cli.models.encoders.ced",
        settings=("heads", "scaling", "token_order"),
        file_name=r"(^|[^a-z])ced([^a-z]|$)|audiotransformer",
        as_imported={"scaling": "beats", "token_order": "frequency"},
        import_note="CED as NLP-07 had it: BEATs' scaling, tokens by frequency",
    ),
    "eat": EncoderKind("nota_cli.models.encoders.eat", file_name=r"(^|[^a-z])eat([^a-z]|$)"),
}


def kinds(role: Role) -> list[str]:
    """Names of the encoders for a role."""
    return [name for name, kind in ENCODERS.items() if kind.role == role]
