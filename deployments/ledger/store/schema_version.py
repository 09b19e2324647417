"""The version of the tables: compares a database's with this code's, and migrates older ones.

The rule by which older code may use newer tables is in `migrations`.
"""

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select, update

from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.tables import changes

_FOLDER = Path(__file__).with_name("migrations")
_SCRIPTS = ScriptDirectory(str(_FOLDER))
_KNOWN = {revision.revision: revision.module for revision in _SCRIPTS.walk_revisions()}
_HEAD = str(_SCRIPTS.get_current_head())


def compare(connection: Connection) -> Literal["older", "current", "newer"]:
    """Return the age of the tables: `older` ones need a migration, `newer` ones can be used.

    Raises:
        StoreError: they are so new that this version of the code must not use them.
    """
    found = MigrationContext.configure(connection).get_current_revision()
    if found == _HEAD:
        return "current"
    if found is None or found in _KNOWN:
        return "older"
    min_reader = connection.execute(select(changes.c.min_reader)).scalar_one()
    if min_reader not in _KNOWN:
        raise StoreError(
            f"the database was migrated by a newer version of Triptych: its schema is {found}, for "
            f"versions from schema {min_reader} on, and this one's is {_HEAD}; run a newer "
            "version, or name another database"
        )
    return "newer"


def upgrade(connection: Connection) -> None:
    """Migrate the tables to this version of the code, if they are older.

    Raises:
        StoreError: they are so new that this version of the code must not use them.
    """
    if compare(connection) != "older":
        return
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    command.upgrade(config, "head")
    # Here, so that no revision can forget it.
    connection.execute(update(changes).values(min_reader=_KNOWN[_HEAD].min_reader))
