"""What programs on a device see of a model: names, types and shapes of what they give and get. Pure.

The same rules say which outputs the runtime offers and whether a bundle takes another one's place unnoticed. Of a
classification programs get ``scores`` (probabilities) and, when the bundle names labels, ``label``; of a reconstruction
``score`` and, when there is a threshold, ``anomaly``. These names mean the same for every model. The model's own
outputs have their own names; one whose name is taken gets ``model_`` before it. The raw scores of a classification are
left out of an answer unless they are asked for, and are not offered at all when they are the probabilities already.
``top_labels`` and ``top_scores``, the best labels of a frame, largest score first, are offered when the bundle says how
many, and are left out likewise. Raw frames are part of what programs rely on where the device makes the input of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from dsops.forms import raw_shape
from dsops.manifest import MAX_RANK, MAX_TENSORS, Color, Frozen, Manifest, Task, TensorSpec

_PREFIX = "model_"
_MOST_DERIVED = 4
"""Outputs that are made of the model's own, at most."""
ShownType = Literal["FP32", "FP16", "INT8", "UINT8", "INT16", "INT32", "INT64", "BOOL", "BYTES"]


class Shown(Frozen):
    """An input or output as the Open Inference Protocol shows it; ``shape`` is that of one frame."""

    name: str = Field(min_length=1, max_length=1024)
    datatype: ShownType
    shape: tuple[Annotated[int, Field(ge=1, lt=2**31)], ...] = Field(max_length=MAX_RANK)

    def __str__(self) -> str:
        """Return it as people write it, for example ``scores FP32 [n, 10]``."""
        return f"{self.name} {self.datatype} [{', '.join(['n', *map(str, self.shape)])}]"


class ShownRaw(Frozen):
    """An input's raw frames; a size of -1 in the shape of one frame may be anything."""

    name: str = Field(min_length=1, max_length=1024)
    datatype: ShownType
    shape: tuple[Annotated[int, Field(ge=-1, lt=2**31)], ...] = Field(max_length=MAX_RANK)
    color: Color = ""

    def __str__(self) -> str:
        """Return it as people write it, for example ``image raw UINT8 RGB [n, -1, -1, 3]``."""
        words = [self.name, "raw", self.datatype, *([self.color] if self.color else [])]
        return f"{' '.join(words)} [{', '.join(['n', *map(str, self.shape)])}]"


class Contract(Frozen):
    """What programs rely on: stored values are no part of it, for their scale changes with every release.

    ``raw`` is not written when it is empty, as in the first bundles' documents, which do not know the key.
    """

    inputs: tuple[Shown, ...] = Field(max_length=MAX_TENSORS)
    outputs: tuple[Shown, ...] = Field(max_length=MAX_TENSORS + _MOST_DERIVED)
    raw: tuple[ShownRaw, ...] = Field(default=(), max_length=MAX_TENSORS)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        if not self.raw:
            found.pop("raw", None)
        return found


class Derived(StrEnum):
    """Outputs that the runtime makes of the model's own; their names."""

    SCORES = "scores"
    LABEL = "label"
    SCORE = "score"
    ANOMALY = "anomaly"
    TOP_LABELS = "top_labels"
    TOP_SCORES = "top_scores"


@dataclass(frozen=True)
class Offer:
    """One output that programs may ask for.

    Attributes:
        shown: How they see it.
        source: What it is made of: the place of a model's own output, or what is derived.
        by_default: Whether it is part of an answer to a request that names no outputs.
    """

    shown: Shown
    source: int | Derived
    by_default: bool = True


def shown_type(spec: TensorSpec) -> ShownType:
    """Return the type under which a tensor's values travel: real values are FP32, however they are stored."""
    return "FP32" if spec.scale or spec.datatype in ("FP32", "FP16") else spec.datatype


def offers_of(manifest: Manifest) -> tuple[Offer, ...]:
    """Return the outputs that programs may ask a model for, in the order of an answer."""
    derived = list(_derived(manifest))
    names = {offer.shown.name for offer in derived}
    taken = names | {spec.name for spec in manifest.outputs}
    own = []
    for position, spec in enumerate(manifest.outputs):
        if position or _is_offered_raw(manifest):
            name = _free_name(spec.name, names, taken)
            shown = Shown(name=name, datatype=shown_type(spec), shape=spec.shape[1:])
            own.append(Offer(shown, position, by_default=position > 0 or not _is_classification(manifest)))
    return (*derived, *own) if _is_classification(manifest) else (*own, *derived)


def contract_of(manifest: Manifest) -> Contract:
    """Return what programs see of a bundle."""
    inputs = tuple(Shown(name=s.name, datatype=shown_type(s), shape=s.shape[1:]) for s in manifest.inputs)
    return Contract(inputs=inputs, outputs=tuple(offer.shown for offer in offers_of(manifest)), raw=_raw(manifest))


def breaches(before: Contract, after: Contract) -> list[str]:
    """Return what a program that uses ``before`` would miss in ``after``; more outputs than before are no breach."""
    given = {shown.name: shown for shown in after.inputs}
    found = [_difference("input", old, given.pop(old.name, None)) for old in before.inputs]
    found += [f"input {new} is new" for new in given.values()]
    offered = {shown.name: shown for shown in after.outputs}
    found += [_difference("output", old, offered.get(old.name)) for old in before.outputs]
    taken = {shown.name: shown for shown in after.raw}
    found += [_difference("input", old, taken.get(old.name)) for old in before.raw]
    return [text for text in found if text]


def _raw(manifest: Manifest) -> tuple[ShownRaw, ...]:
    specs = {spec.name: spec for spec in manifest.inputs}
    return tuple(
        ShownRaw(
            name=one.input,
            datatype=one.raw,
            shape=raw_shape(specs[one.input], one),
            color=one.raw_color or one.color,
        )
        for one in manifest.preprocessing
        if one.raw
    )


def _difference(what: str, old: Shown | ShownRaw, new: Shown | ShownRaw | None) -> str:
    if new is None:
        return f"{what} {old} is gone"
    return "" if new == old else f"{what} {old} becomes {new}"


def _derived(manifest: Manifest) -> Iterator[Offer]:
    if _is_classification(manifest):
        classes = max(manifest.outputs[0].shape[-1], 2)
        yield Offer(Shown(name=Derived.SCORES.value, datatype="FP32", shape=(classes,)), Derived.SCORES)
        if manifest.labels:
            yield Offer(Shown(name=Derived.LABEL.value, datatype="BYTES", shape=()), Derived.LABEL)
        if top := manifest.postprocessing.top_k:
            labels = Shown(name=Derived.TOP_LABELS.value, datatype="BYTES", shape=(top,))
            yield Offer(labels, Derived.TOP_LABELS, by_default=False)
            scores = Shown(name=Derived.TOP_SCORES.value, datatype="FP32", shape=(top,))
            yield Offer(scores, Derived.TOP_SCORES, by_default=False)
    elif manifest.task is Task.RECONSTRUCTION:
        yield Offer(Shown(name=Derived.SCORE.value, datatype="FP32", shape=()), Derived.SCORE)
        if manifest.postprocessing.threshold is not None:
            yield Offer(Shown(name=Derived.ANOMALY.value, datatype="BOOL", shape=()), Derived.ANOMALY)


def _is_classification(manifest: Manifest) -> bool:
    return manifest.task is Task.CLASSIFICATION


def _is_offered_raw(manifest: Manifest) -> bool:
    if not _is_classification(manifest):
        return True
    return manifest.postprocessing.activation != "none" or manifest.outputs[0].shape[-1] == 1


def _free_name(name: str, derived: set[str], taken: set[str]) -> str:
    if name not in derived:
        return name
    while name in taken:
        name = _PREFIX + name
    taken.add(name)
    return name
