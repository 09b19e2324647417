import os
import threading
from concurrent.futures import ThreadPoolExecutor

from deployments.engines.llm.grammar_threads import give_way_to_tokens


class Manager:
    """Has what is used of vLLM's `StructuredOutputManager`."""

    def __init__(self, *, has_tokenizer: bool = True) -> None:
        if has_tokenizer:
            self.executor = ThreadPoolExecutor(1)


def policy() -> int:
    """The scheduling policy of the calling thread."""
    return os.sched_getscheduler(0)


def policy_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(policy()))
    thread.start()
    thread.join()
    return found[0]


def test_schemas_are_compiled_in_what_time_the_tokens_leave() -> None:
    give_way_to_tokens(Manager)
    give_way_to_tokens(Manager)
    manager = Manager()
    own = policy()
    with manager.executor as executor:
        of_compiler = executor.submit(policy).result()
        of_its_threads = executor.submit(policy_of_a_new_thread).result()

    assert of_compiler == of_its_threads == os.SCHED_IDLE
    assert policy() == own


def test_manager_without_a_tokenizer_compiles_nothing() -> None:
    give_way_to_tokens(Manager)

    assert not hasattr(Manager(has_tokenizer=False), "executor")
