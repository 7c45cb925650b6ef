"""The connectors that recipes may name: a new one is a line here and a file that holds all else about it."""

from dataclasses import dataclass

SUMMARY_WIDTH = 128  # between the two layers that sum a clip up: few weights, as there may be few clips to learn from


@dataclass(frozen=True)
class ConnectorKind:
    """What reading a recipe has to know of a kind of connector, torch not imported.

    Attributes:
        module: where it is; its `CONNECTOR` is the class (`nota_cli.models.connectors.base.Connector`).
        settings: keys of the recipe's section that are for this kind alone.
    """

    module: str
    settings: tuple[str, ...] = ()


CONNECTORS: dict[str, ConnectorKind] = {
    "qformer": ConnectorKind(
        "nota_cli.models.connectors.qformer",
        settings=("layers", "heads", "intermediate_size", "queries", "window_seconds", "stride_seconds", "dropout"),
    ),
    "stack_mlp": ConnectorKind("nota_cli.models.connectors.stack_mlp", settings=("stack",)),
}
