"""What labels of a model's samples may be: its classes, or numbers, by version.

The first version comes from the labels of the model's newest bundle unless somebody names classes. A new version says
that the classes or what labellers are told has changed; labels keep the version by which they were given.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from dsops.errors import InvalidInput, NotFound
from dsops.manifest import Manifest
from dsops_controller.dataops.labels.agreement import Scale
from dsops_controller.dataops.labels.label_files import given
from dsops_controller.db import tables
from dsops_controller.db.times import from_ms, to_ms

MAX_CLASSES = 10_000
MAX_GUIDELINE = 100_000


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What labels of a model's samples may be, by version; a new version says what changed in the guideline.

    Attributes:
        classes: In order; none when labels are numbers.
        guideline: What labellers are told.
    """

    model: str
    version: int
    scale: Scale
    classes: tuple[str, ...]
    guideline: str
    created: datetime

    @property
    def is_numeric(self) -> bool:
        """Whether labels are numbers."""
        return not self.classes

    def fault(self, label: str) -> str:
        """Return what is wrong with a label; nothing when it is one of the classes, or a number where those count."""
        if self.classes:
            return (
                "" if label in self.classes else f"{label[:40]!r} is no class of {self.model} (version {self.version})"
            )
        try:
            number = float(label)
        except ValueError:
            return f"{label[:40]!r} is no number"
        below = self.scale is Scale.RATIO and number < 0
        return "" if math.isfinite(number) and not below else f"{label[:40]!r} is not on a scale of {self.scale}"


def check_set(model: str, classes: Sequence[str], scale: Scale, guideline: str) -> None:
    """Check what a version shall say.

    Raises:
        InvalidInput: The scale is none for classes, or a class cannot be one.
    """
    if bool(classes) != (scale in (Scale.NOMINAL, Scale.ORDINAL)):
        raise InvalidInput(
            f"a scale of {scale} has {'no classes' if classes else 'classes'}",
            hint="name the classes for nominal and ordinal, and none for interval and ratio",
        )
    if len(set(classes)) != len(classes) or len(classes) > MAX_CLASSES or len(classes) == 1:
        raise InvalidInput(f"the classes of {model} are one, too many, or one of them is there twice")
    if len(guideline) > MAX_GUIDELINE:
        raise InvalidInput("the guideline is too long", why=f"{MAX_GUIDELINE} characters are allowed")
    for name in classes:
        given("", "", "-", name, None)


def stored_sets(connection: Connection, model: str) -> tuple[LabelSet, ...]:
    """Return every version, the newest last."""
    column = tables.label_set.c
    rows = connection.execute(select(tables.label_set).where(column.model == model).order_by(column.version))
    return tuple(
        LabelSet(r.model, r.version, Scale(r.scale), tuple(json.loads(r.classes)), r.guideline, from_ms(r.created_ms))
        for r in rows
    )


def store_set(connection: Connection, made: LabelSet) -> None:
    """Store a version."""
    connection.execute(
        tables.label_set.insert().values(
            model=made.model,
            version=made.version,
            scale=made.scale,
            classes=json.dumps(made.classes),
            guideline=made.guideline,
            created_ms=to_ms(made.created),
        )
    )


def newest_set(connection: Connection, model: str, now: datetime) -> LabelSet:
    """Return the newest version, or else the first one, not stored yet, of the labels of the model's newest bundle.

    Raises:
        NotFound: There is neither.
    """
    stored = stored_sets(connection, model)
    if stored:
        return stored[-1]
    column = tables.bundle.c
    query = select(column.manifest).where(column.model == model).order_by(column.release.desc()).limit(1)
    text = connection.execute(query).scalar_one_or_none()
    classes = Manifest.decode(text.encode()).labels if text is not None else ()
    if not classes:
        raise NotFound(
            f"the classes of {model} are not known",
            why="it has no bundle with labels here, and nobody named them",
            hint=f"dsops sample label classes {model} CLASS...",
        )
    return LabelSet(model, 1, Scale.NOMINAL, classes, "", now)
