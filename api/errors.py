"""Every error that a client can get; each class has its HTTP status, OpenAI type and code.

ApiError                              500 server_error               internal_error
├── InvalidRequestError               400 invalid_request_error      invalid_value
│   ├── MalformedBodyError            400                            invalid_json
│   ├── MissingParameterError         400                            missing_required_parameter
│   ├── UnknownParameterError         400                            unknown_parameter
│   ├── UnsupportedParameterError     400                            unsupported_parameter
│   ├── ContextLengthExceededError    400                            context_length_exceeded
│   ├── WrongModelKindError           400                            wrong_model_kind
│   ├── InvalidImageError             400                            invalid_image_url
│   ├── InvalidImageFileError         400                            invalid_image_file
│   ├── InvalidApiKeyError            401                            invalid_api_key
│   ├── InsufficientPermissionsError  403                            insufficient_permissions
│   ├── RouteNotFoundError            404                            not_found
│   ├── ModelNotFoundError            404                            model_not_found
│   ├── KeyNotFoundError              404                            key_not_found
│   ├── MethodNotAllowedError         405                            method_not_allowed
│   ├── BodyTimeoutError              408                            request_timeout
│   ├── PayloadTooLargeError          413                            payload_too_large
│   └── UnsupportedMediaTypeError     415                            unsupported_media_type
├── RateLimitError                    429 rate_limit_error           rate_limit_exceeded
│   ├── InsufficientQuotaError        429 insufficient_quota         insufficient_quota
│   └── TooManyFailedKeysError        429                            too_many_failed_keys  never
├── InternalError                     500                            internal_error
├── EngineError                       500                            engine_error
├── DeadlineExceededError             504                            deadline_exceeded     never
└── UnavailableError                  503 service_unavailable_error  server_is_overloaded
    ├── OverloadedError               503                            server_is_overloaded  retry
    ├── KeysUnknownError              503                            keys_unknown          retry
    ├── ModelStartingError            503                            model_starting        retry
    ├── ModelFailedError              503                            model_unavailable     never
    ├── ImageStoreError               503                            image_not_stored      never
    ├── ReplicaLostError              503                            engine_unavailable    retry
    └── ServiceStoppingError          503                            service_stopping      retry

A type that is left out is the parent's. `retry`: the response has a `retry-after` header. `never`:
it has `x-should-retry: false`, which OpenAI's SDKs obey. A RateLimitError has either, depending on
the limit. Status, types and codes follow OpenAI's published error guide.

The constructor is `(message, *, param=None)` and nothing else, because errors cross deployment
handles by pickle.
"""

from typing import Any, Self


class ApiError(Exception):
    """Base of all errors that may be shown to a client."""

    status = 500
    type = "server_error"
    code = "internal_error"
    retry_after_s: int | None = None
    """Sent as `retry-after`; None sends no such header."""
    should_retry: bool | None = None
    """Sent as `x-should-retry`, which OpenAI's SDKs obey; None leaves the decision to them."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Store the message for the client, and the parameter at fault if there is one."""
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call, because the default would lose the keyword-only argument."""
        return _rebuild, (type(self), self.message, self.param), self.__dict__

    def body(self) -> dict[str, Any]:
        """Build the JSON object of OpenAI's error format, with all four keys.

        Source: OpenAI openapi.yaml, schema `Error`.
        """
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Build the response headers of this error, besides the content type."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


def _rebuild(cls: type[ApiError], message: str, param: str | None) -> ApiError:
    return cls(message, param=param)


MAX_QUOTED_CHARS = 64
"""Longest text from a client that an error repeats."""


def quote(text: str, max_chars: int = MAX_QUOTED_CHARS) -> str:
    """Shorten text from a client for an error message; `…` marks the cut."""
    return text if len(text) <= max_chars else text[:max_chars] + "…"


class InvalidRequestError(ApiError):
    """The request is invalid; repeating it does not help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"

    @classmethod
    def value(cls, param: str, reason: str) -> Self:
        """Build the error for an invalid value of a parameter."""
        return cls(f"Invalid value for '{param}': {reason}.", param=param)


class MalformedBodyError(InvalidRequestError):
    """The body is not a JSON object in UTF-8, or not a multipart form."""

    code = "invalid_json"


class MissingParameterError(InvalidRequestError):
    """A required parameter is absent or null."""

    code = "missing_required_parameter"


class UnknownParameterError(InvalidRequestError):
    """The endpoint does not have this parameter."""

    code = "unknown_parameter"


class UnsupportedParameterError(InvalidRequestError):
    """The parameter exists, but this service or model cannot honour it."""

    code = "unsupported_parameter"


class ContextLengthExceededError(InvalidRequestError):
    """The prompt, or the prompt plus `max_tokens`, does not fit the model's context."""

    code = "context_length_exceeded"


class WrongModelKindError(InvalidRequestError):
    """The model exists, but serves another endpoint."""

    code = "wrong_model_kind"


class InvalidImageError(InvalidRequestError):
    """An image in a message cannot be used."""

    code = "invalid_image_url"


class InvalidImageFileError(InvalidRequestError):
    """An uploaded image or mask cannot be used."""

    code = "invalid_image_file"


class InvalidApiKeyError(InvalidRequestError):
    """The request has no API key, or an unknown one."""

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Name the authentication scheme, as RFC 9110 §11.6.1 requires of a 401."""
        return {"www-authenticate": "Bearer"}


class InsufficientPermissionsError(InvalidRequestError):
    """The key is valid, but lacks a scope."""

    status = 403
    code = "insufficient_permissions"


class RouteNotFoundError(InvalidRequestError):
    """No route has this URL."""

    status = 404
    code = "not_found"


class ModelNotFoundError(InvalidRequestError):
    """No model with this id is configured."""

    status = 404
    code = "model_not_found"


class KeyNotFoundError(InvalidRequestError):
    """No API key has this id or name."""

    status = 404
    code = "key_not_found"


class MethodNotAllowedError(InvalidRequestError):
    """The URL does not allow this method."""

    status = 405
    code = "method_not_allowed"
    allowed: str = ""
    """Allowed methods, separated by commas."""

    def headers(self) -> dict[str, str]:
        """Name the allowed methods, as RFC 9110 §15.5.6 requires of a 405."""
        return {"allow": self.allowed} if self.allowed else {}


class BodyTimeoutError(InvalidRequestError):
    """The client did not send its body in time."""

    status = 408
    code = "request_timeout"


class PayloadTooLargeError(InvalidRequestError):
    """The body is larger than the limit."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body's media type, charset or encoding is not supported."""

    status = 415
    code = "unsupported_media_type"


class RateLimitError(ApiError):
    """A rate limit of the key is reached."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_ms: int | None = None
    """Milliseconds until a retry may succeed; None if waiting does not help."""
    limit_headers: dict[str, str] = {}  # noqa: RUF012  # replaced, never changed
    """`x-ratelimit-…` headers."""

    def headers(self) -> dict[str, str]:
        """Say when to retry: in seconds for all clients, in milliseconds for OpenAI's SDKs."""
        if self.retry_after_ms is None:
            return {**self.limit_headers, "x-should-retry": "false"}
        return {
            **self.limit_headers,
            "retry-after": str(-(-self.retry_after_ms // 1000)),
            "retry-after-ms": str(self.retry_after_ms),
        }


class InsufficientQuotaError(RateLimitError):
    """The key's daily or monthly quota is used up."""

    type = "insufficient_quota"
    code = "insufficient_quota"


class TooManyFailedKeysError(RateLimitError):
    """Too many keys that are not valid came from this address, or from all; valid ones pass."""

    code = "too_many_failed_keys"
    should_retry = False

    def headers(self) -> dict[str, str]:
        """Say when to retry, and that a retry with the same key does not help."""
        return {**super().headers(), "x-should-retry": "false"}


class InternalError(ApiError):
    """An unexpected error; the log has the details under the request id."""


class EngineError(ApiError):
    """The engine failed on this request."""

    code = "engine_error"


class DeadlineExceededError(ApiError):
    """The model took longer than the service allows; a retry would take as long again."""

    status = 504
    code = "deadline_exceeded"
    should_retry = False


class UnavailableError(ApiError):
    """The request cannot be served at the moment."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"


class OverloadedError(UnavailableError):
    """The model's queue is full."""

    retry_after_s = 1


class KeysUnknownError(UnavailableError):
    """The API keys are not loaded yet, so an unknown key may turn out to be valid."""

    code = "keys_unknown"
    retry_after_s = 2


class ModelStartingError(UnavailableError):
    """The model is being loaded."""

    code = "model_starting"
    retry_after_s = 5


class ModelFailedError(UnavailableError):
    """The model could not be loaded, and cannot be until its configuration changes."""

    code = "model_unavailable"
    should_retry = False


class ImageStoreError(UnavailableError):
    """The image is drawn but cannot be stored; another try would draw it for nothing again."""

    code = "image_not_stored"
    should_retry = False


class ReplicaLostError(UnavailableError):
    """The replica that served the request died or shut down."""

    code = "engine_unavailable"
    retry_after_s = 1


class ServiceStoppingError(UnavailableError):
    """The service is being stopped: it takes no new requests, or has no more time for this one."""

    code = "service_stopping"
    retry_after_s = 5
