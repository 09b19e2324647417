"""URLs of databases, translated to SQLAlchemy's asynchronous drivers, and of Redis; checked."""

from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}


def to_async_url(text_url: str) -> URL:
    """Translate `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME` to an async URL.

    Raises:
        ValueError: the URL has neither form; the message quotes no part of it.
    """
    try:
        url = make_url(text_url)
        driver = _DRIVERS[url.get_backend_name()]
    except (SQLAlchemyError, KeyError, ValueError):
        # Not quoted: the URL may contain a password.
        raise ValueError("a database URL begins with sqlite:/// or postgresql://") from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        # An in-memory database is empty at each start, and each connection has its own.
        raise ValueError("an SQLite database needs a file: sqlite:///FILE")
    url = url.set(drivername=driver)
    if "sslmode" in url.query:  # libpq's name for `ssl`, with the same values
        url = url.update_query_dict({"ssl": url.query["sslmode"]})
        url = url.difference_update_query(["sslmode"])
    return url


def check_redis_url(url: str) -> None:
    """Check that redis-py can read the URL, without connecting.

    Raises:
        ValueError: it cannot; the message quotes no part of the URL.
    """
    from redis.asyncio.connection import parse_url  # takes 0.3 s to import

    try:
        parse_url(url)
    except ValueError:
        # Redis' own message may quote a part of a password.
        raise ValueError("a Redis URL begins with redis://, rediss:// or unix://") from None
