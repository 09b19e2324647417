"""The one error of the database layer; apart, so that importing it loads no database driver."""


class StoreError(Exception):
    """The database cannot be used. The message is for the operator, and holds no password."""
