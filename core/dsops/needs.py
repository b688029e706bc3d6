"""What a bundle needs of a device, as a small document that comes before the bundle. Pure.

A model's owners sign its digest with the bundle (:class:`dsops.trust.TargetFacts`), so a device can tell whether it can
run a bundle before it asks for any of its bytes. It says nothing that the manifest does not say; a device compares both
when the bundle has come. Classes of hardware are in the signed facts themselves.
"""

import re
from typing import Annotated

from pydantic import Field, ValidationError

from dsops import strictjson
from dsops.bundle import sha256_hex
from dsops.contract import Contract, contract_of
from dsops.errors import MalformedBundle
from dsops.manifest import (
    MAX_COUNT,
    MAX_DELEGATES,
    MAX_OPERATORS,
    DelegateName,
    Frozen,
    Manifest,
    MinLitert,
    OperatorName,
    first_problem,
)

MAX_NEEDS_BYTES = 48 * 1024
"""A document travels in one message, as a chunk does."""
LITERT = "ai-edge-litert"
CUSTOM = "custom:"
"""Begins the name of an operator that is not one of TFLite's own."""

Bytes = Annotated[int, Field(ge=0, le=MAX_COUNT)]


class Needs(Frozen):
    """What a device must have.

    Attributes:
        min_litert: Oldest LiteRT; empty: any runtime.
        operators: What the runtime must know, as :mod:`dsops.operators` writes it; empty when nobody said.
        delegates: Accelerators without which it does not run.
        contract: What programs see of it.
        memory_bytes: Memory of the process that runs it; the payload's length when its owners set no budget.
        disk_bytes: Length of the bundle, and of the files that it brings.
    """

    min_litert: MinLitert = ""
    operators: tuple[OperatorName, ...] = Field(default=(), max_length=MAX_OPERATORS)
    delegates: tuple[DelegateName, ...] = Field(default=(), max_length=MAX_DELEGATES)
    contract: Contract
    memory_bytes: Bytes
    disk_bytes: Bytes

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return strictjson.dumps(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, hex."""
        return sha256_hex(self.encode())

    @classmethod
    def decode(cls, data: bytes) -> "Needs":
        """Parse canonical bytes.

        Raises:
            MalformedBundle: They are too long, not strict JSON, say something else, or are not in canonical form.
        """
        check_length(data)
        try:
            needs = cls.model_validate(strictjson.loads(data))
        except strictjson.JsonRefused as error:
            raise MalformedBundle("what the bundle needs is not strict JSON", why=str(error)) from error
        except ValidationError as error:
            raise MalformedBundle("what the bundle needs is not valid", why=first_problem(error)) from error
        if needs.encode() != data:
            raise MalformedBundle("what the bundle needs is not in canonical form")
        return needs


def check_length(data: bytes) -> None:
    """Check that a document can travel.

    Raises:
        MalformedBundle: It is too long.
    """
    if len(data) > MAX_NEEDS_BYTES:
        why = f"{len(data)} bytes, {MAX_NEEDS_BYTES} allowed"
        raise MalformedBundle("what the bundle needs is too long to be sent", why=why, hint="shorten tensors' names")


def needs_of(manifest: Manifest, length_bytes: int) -> Needs:
    """Return what a bundle needs, from its manifest and the length of its file."""
    offered = manifest.compatibility
    parts = manifest.sealed.blobs if manifest.sealed else manifest.blobs
    payload = next(blob.size_bytes for blob in parts if blob.name == manifest.payload)
    return Needs(
        min_litert=offered.min_litert,
        operators=offered.operators,
        delegates=offered.delegates,
        contract=contract_of(manifest),
        memory_bytes=manifest.budgets.max_memory_bytes or payload,
        disk_bytes=length_bytes + sum(manifest.blob(file.blob).size_bytes for file in manifest.files),
    )


def check_same(signed: str, manifest: Manifest, length_bytes: int) -> None:
    """Check a bundle that has come against what its owners signed of its needs.

    Args:
        signed: Digest of the document that was signed.
        manifest: The bundle's manifest.
        length_bytes: Length of its file.

    Raises:
        MalformedBundle: The bundle needs something else.
    """
    if needs_of(manifest, length_bytes).digest != signed:
        raise MalformedBundle(
            "the bundle's manifest contradicts what was signed of it",
            why="it needs something else of a device than its owners said",
            hint="build, sign and push it again",
        )


def parse_operator(text: str) -> tuple[str, int, bool]:
    """Return an operator's name, its version, and whether it is a custom one."""
    name, _, version = text.rpartition("/")
    return name.removeprefix(CUSTOM), int(version), name.startswith(CUSTOM)


def is_new_enough(runtime: str, version: str, min_litert: str) -> bool:
    """Return whether a runtime is no older than a bundle needs; any other one is older than every LiteRT."""
    return not min_litert or (runtime == LITERT and _numbers(version) >= _numbers(min_litert))


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with; what is left out counts as 0."""
    found = re.match(r"\d+(\.\d+){0,2}", text)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    return tuple(numbers + [0] * (3 - len(numbers)))
