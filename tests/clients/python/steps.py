"""What the Python client programs share: the service, the questions, and how steps are reported.

Runs in the virtual environment of these clients, so it cannot import the project.
"""

import json
import os
from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, Field

URL = os.environ["BASE_URL"]
KEY = os.environ["API_KEY"]
MODEL = "smollm2-135m-instruct"
QUESTION = "What is the capital of France?"
WEATHER_QUESTION = "How is it in Paris?"


class Weather(BaseModel):
    """The weather in a city."""

    sky: Literal["sunny", "cloudy", "rainy"]
    is_cold: bool
    degrees: int = Field(ge=0, le=40)


def run_steps(*steps: Callable[[], Any]) -> None:
    """Run the steps in order and print a JSON object for each: its result or its error."""
    for step in steps:
        line: dict[str, Any] = {"step": step.__name__}
        try:
            line["result"] = step()
        except Exception as error:  # each library raises classes of its own
            kind, status = type(error).__name__, getattr(error, "status_code", None)
            line["error"] = {"kind": kind, "status": status, "message": str(error)[:2000]}
        print(json.dumps(line), flush=True)
