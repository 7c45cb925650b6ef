"""A connector from outside, in one file: the mean of a window's states, and a linear layer."""

from typing import Any

from torch import Tensor, nn

from nota_cli.models.connectors.base import Connector
from nota_cli.recipe.connectors import CONNECTORS, ConnectorKind


class MeanConnector(Connector):
    def __init__(self, spec: Any, speech_width: int, audio_width: int | None, decoder_width: int) -> None:
        super().__init__(spec.stack, spec.stack)
        self.out = nn.Linear(speech_width + (audio_width or 0), decoder_width)

    def embed(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        count = windows.size(1) if mask is None else mask.sum(1, keepdim=True)
        return self.out(windows.sum(1) / count).unsqueeze(1)


CONNECTOR = MeanConnector


def register() -> None:
    """The line in the registry."""
    CONNECTORS["mean"] = ConnectorKind("helpers.mean_connector")
