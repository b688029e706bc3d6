"""DuckDB as this program uses it: in memory, for one answer."""

import tempfile

import duckdb

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # Nothing is fetched at run time, and no query reaches beyond the files that it is given.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "1GB",
    "temp_directory": tempfile.gettempdir(),
    "threads": "2",
}


def in_memory() -> duckdb.DuckDBPyConnection:
    """Return a connection to an empty database, whose times are UTC.

    Raises:
        duckdb.Error: There is no memory for one.
    """
    duck = duckdb.connect(":memory:", config=CONFIG)
    duck.execute("set TimeZone = 'UTC'")
    return duck
