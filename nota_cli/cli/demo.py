"""`nota demo`: a page to listen on."""

from typing import TYPE_CHECKING, Annotated

import typer

from nota_cli.cli.completion import complete_recipe
from nota_cli.cli.options import AllowMissingOption, DeviceOption, LoadFormatOption, SetOption, pick_recipe
from nota_cli.errors import UsageError

if TYPE_CHECKING:
    from nota_cli.recipe.schema import BaseRecipe

app = typer.Typer()


@app.command(epilog="Examples: `nota demo`; `nota demo --recipe tiny --recipe small --port 8000`")
def demo(
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            "-r",
            help="Recipe that visitors may ask: a name, a YAML file or a checkpoint folder. Repeatable; the first two "
            "stand side by side (default: tiny).",
            autocompletion=complete_recipe,
        ),
    ] = None,
    settings: SetOption = None,
    device: DeviceOption = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port (default: the first free one from 7860 on).")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Open a public link for three days, through gradio's servers.")
    ] = False,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest recording that is taken, in seconds.")] = 300.0,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest file that is taken, in megabytes.")] = 50,
    load_format: LoadFormatOption = "auto",
    allow_missing: AllowMissingOption = False,
) -> None:
    """Serve a page: record or upload, see the sound, read the answer as it comes and what it costs.

    The page is this machine's alone unless `--host` or `--share` says otherwise. Visitors ask the recipes that are
    named here and no others; their recordings are deleted after ten minutes, and when the page ends.
    """
    from importlib.util import find_spec

    _check_address(host, port)
    if find_spec("gradio") is None:
        raise UsageError("the page needs gradio: pip install 'nota-cli[demo]' (in a clone: pip install '.[demo]')")
    recipes = [pick_recipe(name, None, settings) for name in recipe or (None,)]
    from nota_cli.imports import heavy_imports

    with heavy_imports():
        from nota_cli.api import AudioLM
        from nota_cli.demo.page import Server, serve
        from nota_cli.demo.recording import Limits
        from nota_cli.demo.session import System
        from nota_cli.models.device import device_for
        from nota_cli.models.loading import Loading, load

    loading = Loading(load_format, allow_missing)
    systems = [
        System(name, AudioLM(load(chosen, device_for(chosen, device), loading)))
        for name, chosen in zip(_names(recipes), recipes, strict=True)
    ]
    serve(systems, Limits(max_seconds, max_megabytes), Server(host, port, share, browser))


def _check_address(host: str, port: int | None) -> None:
    """Whether the page can be served there, asked before models are loaded.

    Raises:
        UsageError: the port is taken, or the address is not this machine's.
    """
    import socket

    try:
        socket.create_server((host, port or 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        remedy = "Choose another --host" if port is None else "Choose another --port"
        where = host if port is None else f"{host}, port {port}"
        raise UsageError(f"the page cannot be served on {where}: {error.strerror or error}. {remedy}.") from None


def _names(recipes: "list[BaseRecipe]") -> list[str]:
    """Their names, those that are the same numbered."""
    names = [recipe.name for recipe in recipes]
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]
