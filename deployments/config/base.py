"""The arguments of all deployments: `args:` in serve_config.yaml says what a model is.

How much of it runs (replicas, CPUs, GPUs) is under `deployments:`, in Ray Serve's own options.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

MODEL_ID = r"[\w.:/@+-]+"

Trust = frozenset[Literal["code", "pickles", "unpinned"]]
"""What an operator accepts of a model's files. By default none of them can run code, and they
cannot change behind the operator's back."""

FAKE_SOURCE = "fake:"
"""Selects an engine without a model; see `deployments.engines.fakes`."""


class Args(BaseModel):
    """Base of all argument blocks: unknown keys are errors, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    live_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that Serve's `user_config` may change in running replicas; see `user_config`."""

    def find_change_problem(self, changed: Self) -> str | None:
        """Say why a replica that was deployed with these arguments cannot use the changed ones."""
        return None


class ModelArgs(Args):
    """The arguments that every model has."""

    live_keys = frozenset({"max_waiting"})

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")] = Field(
        description="model name that clients send"
    )
    source: Annotated[str, Field(min_length=1)] = Field(
        description="local folder, Hugging Face id (`org/name@commit`) or "
        "`demo:NAME`; `fake:` runs an engine without a model, for load tests"
    )
    trust: Trust = Field(
        frozenset(),
        description="what is accepted of the model and its adapters: `code` (Python files and "
        "classes of its own), `pickles` (weights that are not safetensors), `unpinned` (a revision "
        "on the hub that is no commit)",
    )
    max_waiting: int = Field(
        1024, ge=0, description="requests that may queue in one replica; more get a 503"
    )


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` is bfloat16 where the hardware supports it, else float32."""


def application_name(model_id: str) -> str:
    """Return the name of a model's Serve application, which allows neither slash nor dot."""
    return model_id.replace("/", "--").replace(".", "_")


def refuse_trust_options(options: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse options of a library that say what `trust` says.

    Raises:
        ValueError: the options have one of the names.
    """
    for name in names:
        if name in options:
            raise ValueError(f"{name} is decided by trust: leave it out, and set trust under args")
