from typing import Any

import pytest

from api.errors import InvalidRequestError
from api.ports.text import Sampling
from api.schema.common import StreamOptions, TextRequest
from api.settings import Limits
from api.text.sampling import check_text_request, to_sampling


def sample(**members: Any) -> TextRequest:
    return TextRequest(model="m", **members)


def test_sampling_without_parameters_leaves_all_to_the_model() -> None:
    assert to_sampling(sample(), None, None) == Sampling()


def test_sampling_has_all_parameters_of_the_request() -> None:
    request = sample(
        temperature=0.5,
        top_p=0.9,
        n=3,
        stop=["a", "b"],
        seed=-1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        max_tokens=9,
        ignore_eos=True,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        min_tokens=2,
        stop_token_ids=[1, 2],
        bad_words=["c"],
        allowed_token_ids=[3, 4],
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logit_bias={"5": -1.0, "6": None},
    )

    assert to_sampling(request, 7, 8, logprobs=2) == Sampling(
        temperature=0.5,
        top_p=0.9,
        n=3,
        stop=("a", "b"),
        seed=-1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        max_tokens=7,
        default_max_tokens=8,
        ignore_eos=True,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        min_tokens=2,
        stop_token_ids=(1, 2),
        bad_words=("c",),
        allowed_token_ids=(3, 4),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logit_bias={5: -1.0},
        logprobs=2,
    )


def test_top_p_of_0_leaves_only_the_likeliest_token() -> None:
    top_p = to_sampling(sample(top_p=0.0), None, None).top_p

    assert top_p is not None
    assert 0 < top_p < 0.001


def test_prompts_times_n_choices_over_the_limit_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="3 prompts with n=2 make 6 choices") as caught:
        check_text_request(sample(n=2), 3, Limits(max_choices=5))

    assert caught.value.param == "n"


def test_as_many_choices_as_the_limit_are_accepted() -> None:
    check_text_request(sample(n=2), 3, Limits(max_choices=6))


def test_stream_options_with_a_stream_are_accepted() -> None:
    check_text_request(sample(stream=True, stream_options=StreamOptions()), 1, Limits())
