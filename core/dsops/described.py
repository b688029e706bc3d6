"""What a model's metadata says of its inputs beside type and shape: in which forms, and how real values are made. Pure.

The properties of a ModelMetadataResponse carry it: ``NAME.forms`` for people and programs, ``NAME.preprocessing`` as in
the manifest, where the manifest has a section on the input.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from dsops.errors import InvalidInput
from dsops.forms import Accepted, Form
from dsops.manifest import Preprocessing

_FORMS, _PREPROCESSING = "forms", "preprocessing"
_NEAR = 1e-6
"""Scales and offsets so near to each other are the same."""


@dataclass(frozen=True)
class Described:
    """What an input may be given as.

    Attributes:
        name: The input.
        accepted: Its forms, that of metadata first.
        section: How real values of it are made of raw ones; None when the manifest does not say.
    """

    name: str
    accepted: tuple[Accepted, ...]
    section: Preprocessing | None

    def takes(self, form: Form) -> Accepted | None:
        """Return how a form of it looks; None when it does not take that one."""
        return next((one for one in self.accepted if one.form is form), None)

    @property
    def raw_color(self) -> str:
        """What the channels of a raw frame are; empty when the manifest does not say."""
        return (self.section.raw_color or self.section.color) if self.section else ""

    def properties(self) -> dict[str, str]:
        """Return it as properties of a model's metadata; :meth:`read` is the reverse."""
        found = {f"{self.name}.{_FORMS}": "; ".join(map(str, self.accepted))}
        if self.section is not None:
            found[f"{self.name}.{_PREPROCESSING}"] = self.section.model_dump_json(exclude_defaults=True)
        return found

    @classmethod
    def read(cls, name: str, properties: Mapping[str, str]) -> "Described":
        """Return what properties say of an input.

        Raises:
            InvalidInput: They say nothing of it, or something that is not understood.
        """
        forms, section = properties.get(f"{name}.{_FORMS}", ""), properties.get(f"{name}.{_PREPROCESSING}")
        try:
            found = Preprocessing.model_validate_json(section) if section is not None else None
        except ValidationError as error:
            raise InvalidInput(f"the metadata of input {name!r} is not understood", why=str(error)[:200]) from error
        return cls(name, tuple(map(Accepted.parse, forms.split("; "))), found)


def makes_the_same(one: Preprocessing | None, other: Preprocessing | None) -> bool:
    """Return whether real values that were made as the one says are real values as the other wants them.

    What a manifest does not say differs from nothing. How the border of a picture is filled and how pixels between
    pixels are found is said only where the device makes the values.
    """
    if one is None or other is None:
        return True
    said: list[tuple[str, str, str]] = [
        (one.layout, other.layout, "other"),
        (one.color, other.color, ""),
        (one.resize, other.resize, ""),
    ]
    if one.raw and other.raw:
        said.append((one.interpolation, other.interpolation, ""))
    return (
        all(ours == theirs or unsaid in (ours, theirs) for ours, theirs, unsaid in said)
        and (one.fill == other.fill or not (one.raw and other.raw))
        and _near(one.scale, other.scale)
        and _near(one.offset, other.offset)
    )


def _near(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    """Return whether two lists, one number or one a channel, say the same."""
    length = max(len(ours), len(theirs))
    left, right = (values * length if len(values) == 1 else values for values in (ours, theirs))
    return len(left) == len(right) and all(
        math.isclose(one, other, rel_tol=_NEAR, abs_tol=_NEAR * _NEAR) for one, other in zip(left, right, strict=True)
    )
