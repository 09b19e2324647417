"""The sizes and times that the HTTP face keeps to, whatever the model."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schema.common import MAX_TEXTS


class Limits(BaseModel):
    """Caps on one request; each broken one is an error that names the limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="largest request body")
    body_timeout_s: float = Field(30.0, gt=0, description="time for a client to send its body")
    request_timeout_s: float = Field(600.0, gt=0, description="time for a model to answer")
    max_choices: int = Field(
        128, ge=1, description="most prompts × n of one chat or completion request"
    )
    max_embedding_inputs: int = Field(
        2048, ge=1, le=MAX_TEXTS, description="most inputs of one request"
    )
    max_embedding_tokens: int = Field(
        300_000, ge=1, description="most tokens of all inputs of one request"
    )
    max_images: int = Field(10, ge=1, description="most images of one request")
    max_image_pixels: int = Field(4096 * 4096, ge=64, description="largest width × height")
    max_input_images: int = Field(8, ge=1, description="most pictures in one chat request")
    max_input_image_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, description="largest picture in a message, as a file"
    )
    max_upload_bytes: int = Field(
        24 * 1024 * 1024, ge=1024, description="largest form with pictures to be edited"
    )


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
