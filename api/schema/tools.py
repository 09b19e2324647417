"""Tools, and the format of answers. Source: OpenAI openapi.yaml."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from api.schema.common import Request, at_most
from api.schema.json_schema import Budget, check_json_schema

MAX_TOOLS = 128
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _check_schema(schema: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """Check one schema; all schemas of a request share the context and so the budget."""
    context: dict[str, Any] = {} if info.context is None else info.context
    return check_json_schema(schema, context.setdefault("budget", Budget()))


JsonSchema = Annotated[dict[str, Any], AfterValidator(_check_schema)]


class Function(Request):
    """A function that the model may call."""

    name: FunctionName
    description: Annotated[str, Field(max_length=16_384)] | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class FunctionTool(Request):
    """A tool; OpenAI's `custom` tools are not supported, because they have no schema."""

    type: Literal["function"]
    function: Function


class NamedFunction(Request):
    """The name of a function."""

    name: FunctionName


class NamedTool(Request):
    """The name of a tool."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Request):
    """A choice among some of `tools`."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1), at_most(MAX_TOOLS)]


def _to_object(value: Any) -> Any:
    if value in ("none", "auto", "required"):
        return {"type": value}
    if isinstance(value, str) or (isinstance(value, dict) and value.get("type") in _MODES):
        raise ValueError("must be 'none', 'auto', 'required' or an object that names a function")
    return value


_MODES = ("none", "auto", "required")


class ToolChoice(Request):
    """Which tools must or may be called; a bare word is converted to an object."""

    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> "ToolChoice":
        if (self.type == "function") != (self.function is not None):
            raise ValueError(
                "'function' is required for the type 'function', and only allowed there"
            )
        if (self.type == "allowed_tools") != (self.allowed_tools is not None):
            raise ValueError(
                "'allowed_tools' is required for the type 'allowed_tools', and only allowed there"
            )
        return self


ToolChoiceField = Annotated[ToolChoice, BeforeValidator(_to_object)]


class NamedSchema(Request):
    """A schema with a name; the answer always matches it, whether or not it is `strict`."""

    name: FunctionName
    description: str | None = None
    strict: bool | None = None
    schema_: Annotated[JsonSchema, Field(alias="schema")] = Field(
        default_factory=lambda: {"type": "object"}, alias="schema"
    )


class ResponseFormat(Request):
    """Format of the answer; `json_object` may have a schema too."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: JsonSchema | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _is_complete(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError(
                "'json_schema' is required for the type 'json_schema', and only allowed there"
            )
        if self.schema_ is not None and self.type != "json_object":
            raise ValueError("'schema' is only allowed for the type 'json_object'")
        return self

    @property
    def answer_schema(self) -> dict[str, Any] | None:
        """The schema that the answer must match; None for text."""
        if self.type == "json_schema":
            assert self.json_schema is not None
            return self.json_schema.schema_
        return (self.schema_ or {"type": "object"}) if self.type == "json_object" else None


def unsupported(message: str) -> PydanticCustomError:
    """Build the error for a value that OpenAI's API allows and this service does not support."""
    return PydanticCustomError("unsupported", "{message}", {"message": message})
