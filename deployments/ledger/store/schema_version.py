"""The version of the tables: reads a database's, and migrates it to this code's."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from deployments.ledger.store.errors import StoreError

_FOLDER = Path(__file__).with_name("migrations")
_SCRIPTS = ScriptDirectory(str(_FOLDER))
_KNOWN = {revision.revision for revision in _SCRIPTS.walk_revisions()}


def is_current(connection: Connection) -> bool:
    """Whether the tables have this code's version."""
    return _find(connection) == _SCRIPTS.get_current_head()


def upgrade(connection: Connection) -> None:
    """Migrate the tables to this version of the code, if they are older.

    Raises:
        StoreError: a newer version of the code has migrated them.
    """
    found = _find(connection)
    if found is not None and found not in _KNOWN:
        raise StoreError(
            f"the database was set up by a newer version of Triptych (its schema is {found}); "
            "run that version, or name another database"
        )
    if found != _SCRIPTS.get_current_head():
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
        command.upgrade(config, "head")


def _find(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
