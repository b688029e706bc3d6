"""The type of a row whose columns a query chose at run time."""

from typing import Any

from sqlalchemy import Row

AnyRow = Row[*tuple[Any, ...]]
