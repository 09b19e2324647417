"""The one error of the database layer; in its own file, so importing it loads no driver."""


class StoreError(Exception):
    """The database cannot be used; the message is for the operator and contains no password."""
