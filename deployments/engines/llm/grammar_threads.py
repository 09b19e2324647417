"""vLLM's threads that compile JSON schemas give way to the threads that make tokens.

xgrammar compiles with up to eight threads without the interpreter's lock, and one schema can take
seconds. Where the model runs on the same cores, streams would stall for as long.
"""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from typing import Any

_THREADS = 2
"""So that a short schema need not wait for a long one."""


def lower_priority() -> None:
    """Lower the priority of this thread, and so of those that it starts; Linux only.

    Not by a niceness: Ray's workers have 15 of 19 already. `SCHED_IDLE` has a twelfth of their
    weight, so that schemas are compiled still if all cores are busy (sched(7)).
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def give_way_to_tokens(manager_class: Any) -> None:
    """Patch the constructor of vLLM's `StructuredOutputManager`. Safe to repeat.

    Source: vLLM 0.32, v1/structured_output/__init__.py.
    """
    construct = manager_class.__init__
    if hasattr(construct, "__wrapped__"):
        return

    @wraps(construct)
    def construct_with_low_priority(self: Any, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        if hasattr(self, "executor"):  # it has none without a tokenizer
            self.executor.shutdown(wait=False)  # it has not started a thread yet
            self.executor = ThreadPoolExecutor(_THREADS, "grammar", initializer=lower_priority)

    manager_class.__init__ = construct_with_low_priority
