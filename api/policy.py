"""What the operator lets pass, beyond sizes and times."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Parameters = Literal["strict", "lenient"]


class Policy(BaseModel):
    """How the HTTP face treats what it cannot honour."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: Parameters = Field(
        "strict",
        description="strict refuses parameters that cannot be honoured, lenient leaves them out "
        "and lists them in the response header x-ignored-parameters",
    )
    image_hosts: frozenset[str] = Field(
        frozenset(), description="hosts from which pictures in messages may be fetched, by https"
    )
