from dataclasses import replace

from scripts.benchmark.load.generator import Load, to_prompt

LOAD = Load("http://localhost/v1", "key", "model", 1, 1, 1, 0)


def test_long_prompts_have_the_words_of_the_context_and_differ_from_the_first():
    load = replace(LOAD, context_words=1000)

    first, second = to_prompt(1, 1, load), to_prompt(2, 1, load)

    assert len(first.split()) > 1000
    assert first.split()[0] != second.split()[0]


def test_shared_context_is_equal_up_to_the_question():
    load = replace(LOAD, context_words=1000, shares_context=True)

    first, second = to_prompt(1, 1, load), to_prompt(2, 1, load)

    assert first != second
    assert first.split()[:1000] == second.split()[:1000]


def test_checked_prompts_are_numbered_words():
    assert to_prompt(7, 3, replace(LOAD, checks_text=True)) == "7-0 7-1 7-2"
