"""Limits and policy of the HTTP API, the same for all models."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schema.common import MAX_TEXTS

_MOST_BYTES = 100 * 1024 * 1024
"""What fits into a message from an ingress replica to a model's, with all that is around it."""


class Limits(BaseModel):
    """Limits of one request; an error names the limit that it exceeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, le=_MOST_BYTES, description="largest body of a JSON request"
    )
    max_text_body_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        le=_MOST_BYTES,
        description="the same for requests that cannot contain images: all but chat",
    )
    body_timeout_s: float = Field(30.0, gt=0, description="most time for a client to send its body")
    request_timeout_s: float = Field(600.0, gt=0, description="most time for a model to answer")
    max_choices: int = Field(
        128, ge=1, description="most prompts × n of one chat or completion request"
    )
    max_embedding_inputs: int = Field(
        2048, ge=1, le=MAX_TEXTS, description="most inputs of one embedding or ranking request"
    )
    max_embedding_tokens: int = Field(
        300_000, ge=1, description="most tokens of one embedding or ranking request"
    )
    max_images: int = Field(10, ge=1, description="most images of one request")
    max_image_pixels: int = Field(
        4096 * 4096, ge=64, description="largest width × height of a generated image"
    )
    max_input_images: int = Field(8, ge=1, description="most images in one chat request")
    max_input_image_bytes: int = Field(
        10 * 1024 * 1024, ge=1024, description="largest image file in a chat message or an edit"
    )
    max_upload_bytes: int = Field(
        24 * 1024 * 1024, ge=1024, le=_MOST_BYTES, description="largest multipart form of an edit"
    )


class ColdStart(BaseModel):
    """How requests wait for a model that is scaled to zero or being loaded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stream_wait_s: float = Field(
        300.0, ge=0, description="most time for a stream to wait until its model is loaded"
    )
    whole_wait_s: float = Field(
        50.0, ge=0, description="the same for an answer that is not streamed"
    )
    comment_interval_s: float = Field(
        10.0, gt=0, description="how often a waiting stream gets a comment"
    )


Parameters = Literal["strict", "lenient"]


class Policy(BaseModel):
    """How the HTTP API treats parameters it cannot honour, and images at URLs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: Parameters = Field(
        "strict",
        description="`strict` refuses parameters that cannot be honoured; `lenient` leaves them "
        "out and lists them in the response header `x-ignored-parameters`",
    )
    image_hosts: frozenset[str] = Field(
        frozenset(), description="hosts from which images in chat messages may be fetched, by https"
    )
