"""vLLM's errors → ours; vLLM's messages go to the log only."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import EngineError, InvalidRequestError, OverloadedError, ReplicaLostError


@contextmanager
def translate_errors(param: str | None = None) -> Iterator[None]:
    """Translate the errors that vLLM raises inside the block.

    Args:
        param: the parameter at fault if vLLM refuses the request without naming one.

    Raises:
        InvalidRequestError: vLLM refuses the request.
        OverloadedError: vLLM's queue is full.
        EngineError: vLLM failed at this request.
        ReplicaLostError: vLLM's engine is dead.
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
        param = getattr(error, "parameter", None) or param
        if param is None:
            raise InvalidRequestError(
                "The model does not accept this request's parameters."
            ) from error
        raise InvalidRequestError.value(param, "this model does not accept it") from error
    except vllm_errors.VLLMError as error:
        raise EngineError("The engine failed to answer this request.") from error
