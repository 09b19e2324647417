import os
import threading
from concurrent.futures import ThreadPoolExecutor

from deployments.engines.llm.grammar_threads import give_way_to_tokens


class Manager:
    """Has what is used of vLLM's `StructuredOutputManager`."""

    def __init__(self, *, has_tokenizer: bool = True) -> None:
        if has_tokenizer:
            self.executor = ThreadPoolExecutor(1)


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def niceness_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(niceness()))
    thread.start()
    thread.join()
    return found[0]


def test_schemas_are_compiled_at_a_lower_priority_than_tokens_are_made() -> None:
    give_way_to_tokens(Manager)
    give_way_to_tokens(Manager)
    manager = Manager()
    own = niceness()
    with manager.executor as executor:
        of_compiler = executor.submit(niceness).result()
        of_its_threads = executor.submit(niceness_of_a_new_thread).result()

    assert of_compiler == of_its_threads == max(own, 10)
    assert niceness() == own


def test_manager_without_a_tokenizer_compiles_nothing() -> None:
    give_way_to_tokens(Manager)

    assert not hasattr(Manager(has_tokenizer=False), "executor")
