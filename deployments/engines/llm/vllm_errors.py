"""vLLM's errors → ours; their texts stay in the log."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import EngineError, InvalidRequestError, OverloadedError, ReplicaLostError


@contextmanager
def translate_errors(param: str | None = None) -> Iterator[None]:
    """Map what vLLM raises to our tree.

    Args:
        param: what is at fault when vLLM refuses something and does not say what.
    """
    from vllm import exceptions as vllm_errors
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise ReplicaLostError("The engine that worked on this request was lost.") from error
    except (vllm_errors.QueueOverflowError, vllm_errors.MaxQueuedTokensError) as error:
        raise OverloadedError("The model has more requests than it can take; try again.") from error
    except vllm_errors.VLLMClientError as error:
        at_fault = getattr(error, "parameter", None) or param
        if at_fault is None:
            message = "The model does not accept this request's parameters."
        else:
            message = f"Invalid value for '{at_fault}': this model does not accept it."
        raise InvalidRequestError(message, param=at_fault) from error
    except vllm_errors.VLLMError as error:
        raise EngineError("The engine failed to answer this request.") from error
