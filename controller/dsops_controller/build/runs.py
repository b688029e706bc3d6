"""What one model answers to data: computed once, however many steps of a build ask."""

from dataclasses import dataclass, field

import numpy as np

from dsops_controller.build.data import Array, DataSet
from dsops_controller.build.litert import LitertModel

KEPT_BYTES = 64 << 20
"""Answers to one data set that take more than this are computed again each time."""

Outputs = dict[str, Array]


@dataclass
class _Kept:
    """Answers to the first ``stop`` frames of a data set, piece by piece. The set is held: it is known by its id."""

    data: DataSet
    pieces: dict[tuple[int, int], Outputs] = field(default_factory=dict)
    stop: int = 0
    size_bytes: int = 0


class Runs:
    """A model and its answers.

    Args:
        payload: The TFLite file.

    Raises:
        InvalidModel: It cannot be loaded.
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.model = LitertModel(payload)
        self._kept: dict[int, _Kept] = {}

    def rows(self, data: DataSet, start: int, stop: int) -> Outputs:
        """Return every output of the frames from ``start`` to before ``stop``.

        Raises:
            InvalidInput: The frames are not what the model takes.
            InvalidModel: The model cannot be run.
        """
        kept = self._kept.setdefault(id(data), _Kept(data))
        if (start, stop) in kept.pieces:
            return kept.pieces[start, stop]
        outputs = self.model.run(data.rows(slice(start, stop)).inputs)
        size_bytes = sum(values.nbytes for values in outputs.values())
        if start == kept.stop and kept.size_bytes + size_bytes <= KEPT_BYTES:
            kept.pieces[start, stop] = outputs
            kept.stop, kept.size_bytes = stop, kept.size_bytes + size_bytes
        return outputs

    def all(self, data: DataSet) -> Outputs:
        """Return every output of every frame; raises as :meth:`rows`."""
        kept = self._kept.setdefault(id(data), _Kept(data))
        pieces = list(kept.pieces.values())
        if kept.stop < len(data):
            pieces.append(self.rows(data, kept.stop, len(data)))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
