"""Functions that a model may call, and what its answer must be. Source: OpenAI openapi.yaml."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from api.schema.common import Request, at_most
from api.schema.json_schema import Allowance, check_json_schema

MAX_TOOLS = 128
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _check_schema(schema: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """One of perhaps many; the context of a validation is one request's."""
    context: dict[str, Any] = {} if info.context is None else info.context
    return check_json_schema(schema, context.setdefault("allowance", Allowance()))


JsonSchema = Annotated[dict[str, Any], AfterValidator(_check_schema)]


class Function(Request):
    """A function as its caller knows it."""

    name: FunctionName
    description: Annotated[str, Field(max_length=16_384)] | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None


class FunctionTool(Request):
    """A tool; OpenAI's `custom` ones have no schema that could hold a model to them."""

    type: Literal["function"]
    function: Function


class NamedFunction(Request):
    """A function by its name."""

    name: FunctionName


class NamedTool(Request):
    """A tool by its name."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Request):
    """Some of the tools on offer."""

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
    """Which tool is to be called: a word, one tool, or some of them."""

    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None

    @model_validator(mode="after")
    def _is_complete(self) -> "ToolChoice":
        if (self.type == "function") != (self.function is not None):
            raise ValueError("'function' belongs to the type 'function', and must be there")
        if (self.type == "allowed_tools") != (self.allowed_tools is not None):
            raise ValueError("'allowed_tools' belongs to the type of that name, and must be there")
        return self


ToolChoiceField = Annotated[ToolChoice, BeforeValidator(_to_object)]


class NamedSchema(Request):
    """A schema with a name; `strict` or not, the answer is held to it."""

    name: FunctionName
    description: str | None = None
    strict: bool | None = None
    schema_: Annotated[JsonSchema, Field(alias="schema")] = Field(
        default_factory=lambda: {"type": "object"}, alias="schema"
    )


class ResponseFormat(Request):
    """Text, any JSON object, or JSON of a schema; `json_object` may carry one too."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: JsonSchema | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _is_complete(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("'json_schema' belongs to the type of that name, and must be there")
        if self.schema_ is not None and self.type != "json_object":
            raise ValueError("'schema' belongs to the type 'json_object'")
        return self

    @property
    def wanted(self) -> dict[str, Any] | None:
        """The schema of the answer; None for text."""
        if self.type == "json_schema":
            assert self.json_schema is not None
            return self.json_schema.schema_
        return (self.schema_ or {"type": "object"}) if self.type == "json_object" else None


def refuse(message: str) -> PydanticCustomError:
    """A value that OpenAI's API knows and this service cannot honour."""
    return PydanticCustomError("unsupported", "{message}", {"message": message})
