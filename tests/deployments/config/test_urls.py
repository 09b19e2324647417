import pytest

from deployments.config.urls import to_async_url


@pytest.mark.parametrize(
    ("url", "translated"),
    [
        ("sqlite:///keys.db", "sqlite+aiosqlite:///keys.db"),
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgresql://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
    ],
)
def test_url_gets_the_asynchronous_driver(url: str, translated: str) -> None:
    assert to_async_url(url).render_as_string(hide_password=False) == translated


@pytest.mark.parametrize("url", ["", "nonsense", "mysql://u:opensesame@h/d", "redis://h"])
def test_other_database_is_refused_without_quoting_the_url(url: str) -> None:
    with pytest.raises(ValueError, match="a database URL begins with") as caught:
        to_async_url(url)

    assert "opensesame" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_sqlite_without_a_file_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="an SQLite database needs a file"):
        to_async_url(url)
