"""Which operators a payload has, as a bundle's needs name them. A device only compares the names. Pure."""

from dsops.needs import CUSTOM
from dsops.tflite_lint import list_operators


def operators_of(payload: bytes) -> tuple[str, ...]:
    """Return what a runtime must know to load a TFLite file: ``CONV_2D/3``, or ``custom:edgetpu-custom-op/1``, sorted.

    Operators that the file declares and does not use are among them: a runtime resolves them all the same.

    Raises:
        InvalidModel: It is not a TFLite file, or damaged.
    """
    kinds = list_operators(payload)
    return tuple(sorted({f"{CUSTOM if kind.custom else ''}{kind.name}/{kind.version}" for kind in kinds}))
