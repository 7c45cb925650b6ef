"""The kinds of error a user can act on; the command line turns each into one message and an exit status."""


class NotaError(Exception):
    """Something went wrong that the user can mend; the message names what, where and the remedy."""

    exit_code = 1


class UsageError(NotaError):
    """The command was called in a way that cannot work (exit status 2)."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is missing, or has unknown keys or values out of range."""


class DataError(NotaError):
    """An annotation or audio file cannot be used; the message names the file and the row."""


class CheckpointError(NotaError):
    """Weights do not fit the model they are loaded into."""


def listing(problems: list[str], limit: int = 20) -> str:
    """One problem a line, cut after `limit` with a count of the rest."""
    shown = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"  ... and {len(problems) - limit} more")
    return "\n".join(shown)
