"""Processes that train together. They fork from one server that has imported everything: a start takes no seconds."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from helpers.ranks import environment

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["nota_cli.training.loop", "transformers.models.gemma2.modeling_gemma2"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(
    recipe: Path,
    folder: Path,
    settings: Sequence[str],
    processes: int,
    variables: Mapping[str, str] | None = None,
    **options: Any,
) -> list[BaseProcess]:
    """Begin training with so many processes that share each batch; what each says is in `FOLDER.rank`."""
    port, ranks = free_port(), []
    for rank in range(processes):
        given = {"ACCELERATE_USE_CPU": "true", **(variables or {})}
        if processes > 1:
            given |= environment(rank, processes, port)
        said = folder.with_name(f"{folder.name}.{rank}")
        process = SERVER.Process(target=_train, args=(recipe, folder, list(settings), given, said, options))
        process.start()
        ranks.append(process)
    return ranks


def finish(ranks: list[BaseProcess], folder: Path) -> None:
    """Wait for them all."""
    try:
        for process in ranks:
            process.join(120)
        said = [file.read_text() for file in sorted(folder.parent.glob(f"{folder.name}.[0-9]"))]
        assert [process.exitcode for process in ranks] == [0] * len(ranks), said
    finally:
        for process in ranks:
            process.kill()


def _train(
    recipe: Path, folder: Path, settings: list[str], variables: dict[str, str], said: Path, options: dict[str, Any]
) -> None:
    with said.open("w", buffering=1) as sys.stderr:
        for name in ("RANK", "WORLD_SIZE"):
            os.environ.pop(name, None)
        os.environ.update(variables)
        import torch

        import nota_cli.training.loop as loop
        from nota_cli.errors import NotaError
        from nota_cli.recipe.load import load_recipe

        torch.set_num_threads(1)
        loop.LOG_EVERY = 1
        try:
            loop.train(load_recipe(str(recipe), settings), folder, **options)
        except NotaError as error:
            print(error, file=sys.stderr)
            os._exit(1)
        except BaseException:
            traceback.print_exc()
            os._exit(3)
