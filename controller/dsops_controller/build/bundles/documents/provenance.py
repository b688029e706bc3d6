"""Provenance: which inputs became which files, as an in-toto statement with SLSA's predicate, in a DSSE envelope.

Formats: in-toto Attestation Framework, Statement v1; SLSA provenance v1 (slsa.dev/spec/v1.0/provenance); DSSE 1.0.
The model owner's key signs it, the same that approves the bundle. Ed25519 signs without chance and nothing in the
statement is a time, so a bundle with provenance is as reproducible as one without.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field, ValidationError

from dsops import strictjson
from dsops.dsse import MAX_ENVELOPE_BYTES, PrivateKey, PublicKey, decode, sign, verify
from dsops.errors import DigestMismatch, InvalidInput, UntrustedBundle
from dsops.manifest import Blob, first_problem
from dsops_controller.build.bundles.documents.subject import Subject
from dsops_controller.build.record import PROVENANCE

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:dsops:build:1"
LOCAL_BUILDER = "urn:dsops:local-build"
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S{1,500}")
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


@dataclass(frozen=True)
class Signer:
    """Who vouches for a build: the model owner's key, and a URI that names what built it."""

    key: PrivateKey
    builder: str = LOCAL_BUILDER

    def __post_init__(self) -> None:
        if not _URI.fullmatch(self.builder):
            raise InvalidInput(f"{self.builder!r} cannot name a builder", why="a URI is needed", hint="urn:acme:ci")


class _Subject(BaseModel):
    name: str
    digest: dict[str, str]


class _Builder(BaseModel):
    id: str


class _RunDetails(BaseModel):
    builder: _Builder


class _BuildDefinition(BaseModel):
    build_type: str = Field(alias="buildType")


class _Predicate(BaseModel):
    definition: _BuildDefinition = Field(alias="buildDefinition")
    run: _RunDetails = Field(alias="runDetails")


class _Statement(BaseModel):
    """The parts that are checked; in-toto lets readers pass over what they do not know."""

    kind: str = Field(alias="_type")
    subject: tuple[_Subject, ...]
    predicate_type: str = Field(alias="predicateType")
    predicate: _Predicate


def sha256_of(digest: str) -> str | None:
    """Return the hex digits of a SHA-256 digest as people write it, or None if the text is something else."""
    found = _SHA256.fullmatch(digest)
    return found[1] if found else None


def statement(subject: Subject, builder: str = LOCAL_BUILDER) -> dict[str, object]:
    """Return the statement about every blob of a bundle (but itself)."""
    record = subject.record
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": blob.name, "digest": {"sha256": blob.sha256}} for blob in subject.blobs],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "model": record.model,
                    "release": subject.release,
                    "variant": subject.variant.variant,
                },
                "internalParameters": {"mode": subject.variant.mode},
                "resolvedDependencies": list(_dependencies(subject)),
            },
            "runDetails": {"builder": {"id": builder, "version": dict(sorted(record.tools.items()))}},
        },
    }


def provenance(subject: Subject, signer: Signer) -> bytes:
    """Return the signed envelope.

    Raises:
        InvalidInput: There are so many files and data sets that it would be longer than an envelope may be.
    """
    payload = strictjson.dumps(statement(subject, signer.builder))
    envelope = sign(PAYLOAD_TYPE, payload, signer.key).encode()
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise InvalidInput("the provenance is too long", why=f"{len(envelope)} bytes, {MAX_ENVELOPE_BYTES} allowed")
    return envelope


def read_provenance(envelope: bytes) -> dict[str, object]:
    """Return what a provenance says, unproven: its builder, build type and subjects.

    Raises:
        UntrustedBundle: It is not a provenance.
    """
    said = _read(_unproven(envelope))
    return {
        "builder": said.predicate.run.builder.id,
        "build_type": said.predicate.definition.build_type,
        "subjects": {entry.name: entry.digest.get("sha256", "") for entry in said.subject},
    }


def check_subjects(envelope: bytes, blobs: Sequence[Blob]) -> None:
    """Check that a provenance speaks of exactly these blobs (itself left out); who signed it is another question.

    Raises:
        UntrustedBundle: It is not a provenance.
        DigestMismatch: It speaks of others.
    """
    _compare(_read(_unproven(envelope)), blobs)


def check_provenance(envelope: bytes, blobs: Sequence[Blob], keys: Mapping[str, PublicKey]) -> str:
    """Check who signed a provenance and that it speaks of exactly these blobs; return the builder that it names.

    Raises:
        UntrustedBundle: None of the keys signed it, or it is not a provenance.
        DigestMismatch: It speaks of others.
    """
    said = _read(verify(envelope, PAYLOAD_TYPE, keys))
    _compare(said, blobs)
    return said.predicate.run.builder.id


def _dependencies(subject: Subject) -> Iterable[dict[str, object]]:
    record = subject.record
    if record.lineage.source_sha256:
        yield _dependency("source model", record.lineage.source_sha256)
    yield _dependency("bundle.toml", record.recipe_sha256)
    for purpose, digest in sorted(record.lineage.datasets.items()):
        yield _dependency(f"data set: {purpose}", digest)
    if record.lineage.commit:
        yield {"name": "training code", "annotations": {"commit": record.lineage.commit}}


def _dependency(name: str, digest: str) -> dict[str, object]:
    known = sha256_of(digest)
    return {"name": name, "digest": {"sha256": known}} if known else {"name": name, "annotations": {"digest": digest}}


def _unproven(envelope: bytes) -> bytes:
    return decode(envelope, PAYLOAD_TYPE).content()


def _read(payload: bytes) -> _Statement:
    try:
        said = _Statement.model_validate(strictjson.loads(payload))
    except strictjson.JsonRefused as error:
        raise UntrustedBundle("the provenance is not strict JSON", why=str(error)) from error
    except ValidationError as error:
        raise UntrustedBundle("the provenance is not valid", why=first_problem(error)) from error
    if (said.kind, said.predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
        raise UntrustedBundle("the provenance is of another type", why=said.predicate_type[:200])
    return said


def _compare(said: _Statement, blobs: Sequence[Blob]) -> None:
    named = {entry.name: entry.digest.get("sha256") for entry in said.subject}
    held = {blob.name: blob.sha256 for blob in blobs if blob.name != PROVENANCE}
    if named != held:
        names = sorted(name for name in named.keys() | held.keys() if named.get(name) != held.get(name))
        raise DigestMismatch("the provenance is of another bundle", why=f"it differs in {', '.join(names)[:200]}")
