"""What stands under `args:` in serve_config.yaml: what each model is, and how the ingress behaves.

How much of it runs (replicas, CPUs, GPUs) stands under `deployments:`, in Ray Serve's own words.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MODEL_ID = r"[\w.:/@+-]+"


class Args(BaseModel):
    """Base of all argument blocks: unknown names are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelArgs(Args):
    """What every model has."""

    id: Annotated[str, Field(min_length=1, max_length=128, pattern=f"^{MODEL_ID}$")]
    """The name that clients use."""
    source: Annotated[str, Field(min_length=1)]
    """A local folder, a Hugging Face id (`org/name` or `org/name@revision`) or `demo:<name>`."""
    max_waiting: int = Field(
        1024, ge=0, description="requests that wait in a replica for their turn; more are refused"
    )


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` is bfloat16 where the hardware computes in it, else float32."""


def application_name(model_id: str) -> str:
    """The Serve application of a model; a name of Serve's takes no slash."""
    return model_id.replace("/", "--").replace(".", "_")
