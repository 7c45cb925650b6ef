"""What all sections of a recipe share: the types of their values, and that unknown keys are errors."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from nota_cli.paths import expand_path

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
LoadFormat = Literal["auto", "dummy"]
"""How weights come into a model: from files, or at random at their true size."""
PathText = Annotated[str, AfterValidator(expand_path)]
"""A file, a folder or a hub id; `~`, `~user` and `file://` are written out."""
Dtype = Literal["float32", "bfloat16", "float16"]


class Section(BaseModel):
    """A part of a recipe; a key it does not know is an error, so that a typo never vanishes."""

    model_config = ConfigDict(extra="forbid")
