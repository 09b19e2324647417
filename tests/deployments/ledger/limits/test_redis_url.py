import pytest

from deployments.ledger.limits.redis_url import find_redis_url

VARIABLE = "TRIPTYCH_REDIS_URL"


def test_configured_url_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "redis://b")

    assert find_redis_url("redis://a") == "redis://a"


@pytest.mark.parametrize("value", ["redis://:p@h:1/2", "redis://:p@h:1/2\n"])
def test_environment_names_redis_if_the_configuration_does_not(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, value)

    assert find_redis_url(None) == "redis://:p@h:1/2"


@pytest.mark.parametrize("value", [None, "", "\n"])
def test_missing_or_empty_variable_means_no_redis(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)

    assert find_redis_url(None) is None


@pytest.mark.parametrize("value", ["http://u:opensesame@h", "redis://u:opensesame/more@h", "open"])
def test_invalid_variable_is_refused_by_name_without_quoting_it(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, value)

    with pytest.raises(ValueError, match=f"^{VARIABLE}: a Redis URL begins with") as caught:
        find_redis_url(None)

    assert "opensesame" not in str(caught.value)
    assert caught.value.__suppress_context__
