"""In which forms an input may be given, and which of them something that was given has. Pure.

The same rule holds for a request to a device and for a data file of a build: type and shape say the form, and where two
forms look alike, the one who gives says which it is. What looks like real values and is said to be nothing else is
real: that is the form that a model's metadata names.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from dsops.errors import InvalidInput
from dsops.manifest import CHANNELS, IMAGE_LAYOUTS, Preprocessing, TensorSpec

ANY = -1
"""A size that may be anything."""
MAX_SIDE = 1 << 14
MAX_RAW_VALUES = 1 << 26
"""Height or width of a raw frame, and its values, at most."""
_FREE = ("height", "width")


class Form(StrEnum):
    """What values of an input are."""

    REAL = "real"
    """Real values of the input's shape, as float32."""
    STORED = "stored"
    """Values as the payload stores them, in the input's own type."""
    RAW = "raw"
    """A frame as a sensor gives it: the manifest's preprocessing makes real values of it."""


@dataclass(frozen=True)
class Accepted:
    """One form in which an input may be given; ``shape`` is that of one frame, and may have sizes of :data:`ANY`."""

    form: Form
    datatype: str
    shape: tuple[int, ...]

    def fits(self, datatype: str, shape: Sequence[int]) -> bool:
        """Return whether a frame of this type and shape can be meant."""
        return (
            datatype == self.datatype
            and len(shape) == len(self.shape)
            and all(size > 0 and wanted in (size, ANY) for size, wanted in zip(shape, self.shape, strict=True))
        )

    def __str__(self) -> str:
        """Return it as people write it, for example ``raw UINT8 [n, height, width, 3]``."""
        free = iter(_FREE)
        sizes = [next(free) if size == ANY else str(size) for size in self.shape]
        return f"{self.form} {self.datatype} [{', '.join(['n', *sizes])}]"

    @classmethod
    def parse(cls, text: str) -> "Accepted":
        """Return what :meth:`__str__` wrote.

        Raises:
            InvalidInput: It did not write this.
        """
        form, _, rest = text.partition(" ")
        datatype, _, shape = rest.partition(" ")
        if form not in tuple(Form) or not shape.startswith("[n") or not shape.endswith("]"):
            raise InvalidInput("a form of an input is not understood", why=f"got {text[:64]!r}")
        sizes = shape[2:-1].split(", ")[1:]
        try:
            return cls(Form(form), datatype, tuple(ANY if size in _FREE else int(size) for size in sizes))
        except ValueError as error:
            raise InvalidInput("a form of an input is not understood", why=f"got {text[:64]!r}") from error


def accepted_forms(spec: TensorSpec, section: Preprocessing | None) -> tuple[Accepted, ...]:
    """Return the forms in which an input may be given: real values first, if it has any."""
    shape = spec.shape[1:]
    is_real = bool(spec.scale) or spec.datatype in ("FP32", "FP16")
    found = [Accepted(Form.REAL, "FP32", shape)] if is_real else []
    if not is_real or spec.datatype != "FP32":
        found.append(Accepted(Form.STORED, spec.datatype, shape))
    if section is not None and section.raw:
        found.append(Accepted(Form.RAW, section.raw, raw_shape(spec, section)))
    return tuple(found)


def raw_shape(spec: TensorSpec, section: Preprocessing) -> tuple[int, ...]:
    """Return the shape of a raw frame: channels last; height and width are :data:`ANY` where it is resized."""
    places = IMAGE_LAYOUTS.get(section.layout)
    if places is None:
        return spec.shape[1:]
    height, width, channels = (spec.shape[place] for place in places)
    given = section.raw_color or section.color
    channels = CHANNELS[given] if given else channels
    return (ANY, ANY, channels) if section.resize else (height, width, channels)


def form_of(name: str, accepted: Sequence[Accepted], datatype: str, shape: Sequence[int], said: str = "") -> Form:
    """Return the form of frames that were given.

    Args:
        name: The input.
        accepted: Its forms; see :func:`accepted_forms`.
        datatype: Open Inference Protocol type of what was given.
        shape: Shape of one frame of it.
        said: What the one who gives it says it is; empty when nothing is said.

    Raises:
        InvalidInput: It fits none of the forms, or two of them and nobody says which is meant.
    """
    wanted = [one for one in accepted if not said or one.form == said]
    fitting = [one.form for one in wanted if one.fits(datatype, shape)]
    if not fitting:
        raise _misfit(name, accepted, wanted, datatype, shape, said)
    if len(fitting) > 1 and fitting[0] is not Form.REAL:
        raise InvalidInput(
            f"input {name!r} may be {' or '.join(fitting)} values",
            why="type and shape do not tell which is meant",
            hint=f"set the parameter form to {' or '.join(fitting)}",
        )
    if fitting[0] is Form.RAW and (max(shape, default=1) > MAX_SIDE or math.prod(shape) > MAX_RAW_VALUES):
        raise InvalidInput(f"a raw frame of {list(shape)} is too large", why=f"{MAX_SIDE} pixels a side are allowed")
    return fitting[0]


def _misfit(
    name: str, accepted: Sequence[Accepted], wanted: Sequence[Accepted], datatype: str, shape: Sequence[int], said: str
) -> InvalidInput:
    if not wanted:
        forms = " or ".join(dict.fromkeys(one.form for one in accepted))
        return InvalidInput(f"input {name!r} has the form {forms}", why=f"got {said[:16]!r}")
    datatypes = tuple(dict.fromkeys(one.datatype for one in wanted))
    if datatype not in datatypes:
        return InvalidInput(f"input {name!r} has datatype {' or '.join(datatypes)}", why=f"got {datatype[:16]!r}")
    shapes = dict.fromkeys(str(one).partition(" [")[2] for one in wanted if one.datatype == datatype)
    sizes = ", ".join(["n", *map(str, list(shape)[:8])])
    return InvalidInput(f"input {name!r} has shape {' or '.join(f'[{one}' for one in shapes)}", why=f"got [{sizes}]")
