"""How two answers to the same frames differ, told from the outputs that programs get. Pure.

Both answers have the outputs of the champion's contract (:mod:`dsops.contract`), so the names mean the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsops.contract import Derived
from dsops.manifest import Manifest, Task
from dsops_agent.runtime.answer import Values

Named = Mapping[str, Values]
"""Outputs by name, each of ``n`` frames."""


@dataclass(frozen=True)
class Difference:
    """What champion and challenger say of the same frames.

    Attributes:
        agree: Whether they choose the same, a value a frame; None when they choose nothing.
        distance: From 0 (the same) to 1, a value a frame.
    """

    agree: tuple[bool, ...] | None
    distance: tuple[float, ...]

    @property
    def disputed(self) -> dict[int, float]:
        """Return the frames for which they choose differently, by row: how far apart they are."""
        agree = self.agree or ()
        return {row: self.distance[row] for row, same in enumerate(agree) if not same}


def difference(task: Task, champion: Named, challenger: Named) -> Difference:
    """Return how two answers differ.

    The distance of two classifications is the total variation of their probabilities; of other numbers ``a`` and ``b``
    it is ``|a - b| / (|a| + |b|)``, summed over a frame above and below the line.

    Raises:
        KeyError: An output that is compared is missing.
        ValueError: They have different shapes.
    """
    if task is Task.CLASSIFICATION:
        ours, theirs = _array(champion[Derived.SCORES]), _array(challenger[Derived.SCORES])
        apart = np.abs(ours - theirs).sum(axis=1) / 2
        return Difference(_same(_choices(champion, ours), _choices(challenger, theirs)), _shares(apart))
    if task is Task.RECONSTRUCTION:
        both = Derived.ANOMALY in champion and Derived.ANOMALY in challenger
        agree = _same(list(champion[Derived.ANOMALY]), list(challenger[Derived.ANOMALY])) if both else None
        return Difference(agree, _relative(champion[Derived.SCORE], challenger[Derived.SCORE]))
    first = next(iter(champion))
    return Difference(None, _relative(champion[first], challenger[first]))


def confidences(manifest: Manifest, named: Named) -> list[float] | None:
    """Return how sure an answer is of each frame, from 0 to 1, or nothing when it does not say.

    As :func:`dsops_agent.runtime.watch.confidences_of`, with the champion's threshold for both.
    """
    if manifest.task is Task.CLASSIFICATION and Derived.SCORES in named:
        largest: list[float] = _array(named[Derived.SCORES]).max(axis=1).tolist()
        return largest
    threshold = manifest.postprocessing.threshold
    if manifest.task is Task.RECONSTRUCTION and threshold and Derived.SCORE in named:
        return [threshold / (threshold + score) for score in _array(named[Derived.SCORE]).tolist()]
    return None


def _choices(named: Named, scores: np.ndarray[Any, np.dtype[Any]]) -> list[Any]:
    label = named.get(Derived.LABEL)
    return list(scores.argmax(axis=1)) if label is None else list(label)


def _same(ours: list[Any], theirs: list[Any]) -> tuple[bool, ...]:
    return tuple(bool(one == other) for one, other in zip(ours, theirs, strict=True))


def _relative(ours: Values, theirs: Values) -> tuple[float, ...]:
    left, right = _frames(ours), _frames(theirs)
    above = np.abs(left - right).sum(axis=1)
    below = (np.abs(left) + np.abs(right)).sum(axis=1)
    return _shares(np.divide(above, below, out=np.zeros_like(above), where=below != 0))


def _frames(values: Values) -> np.ndarray[Any, np.dtype[Any]]:
    array = _array(values)
    return array.reshape(len(array), -1)


def _array(values: Values) -> np.ndarray[Any, np.dtype[Any]]:
    return np.asarray(values, np.float64)


def _shares(values: np.ndarray[Any, np.dtype[Any]]) -> tuple[float, ...]:
    """Return values cut to 0 to 1; what is no number is as far apart as can be."""
    return tuple(np.clip(np.nan_to_num(values, nan=1.0), 0.0, 1.0).tolist())
