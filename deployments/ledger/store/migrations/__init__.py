"""The revisions of the tables: they only expand, so that older code can go on with newer tables.

In an upgrade two versions of the service may use one database, and each may restart. The newer one
migrates it; the older one does not know the new revision, and reads `min_reader` in the database:
the oldest revision whose code may use these tables. If it knows that one, it goes on.

For a new revision:

- Expand: add tables, indexes, and columns that are nullable or have a `server_default`, because
  older code does not write them. Do not rename, and do not change what a column means.
- State `min_reader`: that of the revision before, as long as its code reads and writes the new
  tables correctly. `schema_version` writes it to the database.
- Contract one release later. The revision that stops using a column takes it out of `tables.py`,
  else `select` still names it, and makes it nullable or gives it a default, as this code no longer
  writes it. The test that compares both has to know what is left over. A revision of the next
  release drops it, and raises `min_reader` to the revision that stopped using it.
- Nothing migrates downwards.
"""
