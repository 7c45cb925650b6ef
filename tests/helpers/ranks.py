"""The environment of one of several processes that share a run, and how soon they give up one that is lost."""

from nota_cli.inference import distributed


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in values.items()}}


def impatient() -> None:
    distributed.LOST_SECONDS, distributed.BEAT_SECONDS = 5.0, 0.1
