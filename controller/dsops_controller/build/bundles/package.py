"""Makes bundles of a build: checks that their parts belong together, then writes one reproducible file a variant."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from dsops.bundle import describe_blobs, encode_bundle, sha256_hex
from dsops.errors import (
    DigestMismatch,
    GoldenMismatch,
    InvalidInput,
    MalformedBundle,
    OverSize,
    UntrustedBundle,
)
from dsops.files import write_atomically
from dsops.golden import GoldenSet
from dsops.manifest import FORMAT_SEALED, Blob, Documents, Manifest, Sealed, first_problem
from dsops.operators import operators_of
from dsops.profile import Profile, check_profile
from dsops.sealing import Identity, seal
from dsops.tflite_lint import LintLimits, lint
from dsops_controller.build import record
from dsops_controller.build.bundles.documents.modelcard import read_card, write_card
from dsops_controller.build.bundles.documents.provenance import Signer, provenance
from dsops_controller.build.bundles.documents.sbom import bill_of_materials
from dsops_controller.build.bundles.documents.subject import Subject
from dsops_controller.build.bundles.payload import Payload, read_payload
from dsops_controller.build.golden import check_golden
from dsops_controller.build.litert import LitertModel
from dsops_controller.build.meaning import Meaning
from dsops_controller.build.model_signature import signed_files
from dsops_controller.build.record import PROVENANCE, SBOM, BuildRecord, VariantRecord

_KEPT = ("model", "description", "license", "task", "labels", "preprocessing", "postprocessing", "lineage", "kpis")
"""What a manifest takes from the record as it is."""
_OF_VARIANT = ("variant", "inputs", "outputs", "compatibility", "budgets", "metrics")


@dataclass(frozen=True)
class Packed:
    """A bundle in memory."""

    manifest: Manifest
    data: bytes

    @property
    def file_name(self) -> str:
        """How its file is named when nobody says otherwise."""
        return f"{self.manifest.model}-{self.manifest.release}-{self.manifest.variant}.bundle"


def build_bundle(
    build_dir: Path,
    release: int,
    out_path: Path,
    variant: str | None = None,
    signer: Signer | None = None,
    secret: bytes | None = None,
) -> Manifest:
    """Write the bundle of one variant. The same arguments give the same bytes; no time is in them.

    Args:
        build_dir: A folder that :func:`dsops_controller.build.recipe.build_model` wrote.
        release: The bundle's number within its model.
        out_path: File to write; it is there whole or not at all.
        variant: Which variant; a build with only one need not say it.
        signer: Signs the provenance; without one there is none.
        secret: Encrypts payload and golden inputs (:mod:`dsops.sealing`); without one everything is readable.

    Raises:
        InvalidInput: The folder does not hold a build, there is no such variant, the release is out of range, or the
            file cannot be written.
        InvalidModel: The payload is not sound, or not the one that the record describes.
        DigestMismatch: A file of the build was changed since.
        GoldenMismatch: The payload does not answer its golden inputs as expected, or the profile is another model's.
        OverSize: The bundle is larger than its own budget.
        UntrustedBundle: The model's signature does not cover the source model.
        NoSpace: The disk is full.
    """
    entry = BuildRecord.read(build_dir)
    packed = _pack(build_dir, entry, _choose(entry, variant), release, signer, secret)
    _write(out_path, packed)
    return packed.manifest


def build_bundles(
    build_dir: Path,
    release: int,
    out_dir: Path,
    variant: str | None = None,
    signer: Signer | None = None,
    secret: bytes | None = None,
) -> dict[Path, Manifest]:
    """Write the bundle of every variant, or of one, into a folder; when all of them are known to be right.

    Returns:
        What was written, by the file.

    Raises:
        The same errors as :func:`build_bundle`.
    """
    entry = BuildRecord.read(build_dir)
    chosen = entry.variants if variant is None else (entry.variant(variant),)
    every = {
        out_dir / packed.file_name: packed
        for packed in (_pack(build_dir, entry, one, release, signer, secret) for one in chosen)
    }
    for path, packed in every.items():
        _write(path, packed)
    return {path: packed.manifest for path, packed in every.items()}


def _choose(entry: BuildRecord, variant: str | None) -> VariantRecord:
    if variant is not None:
        return entry.variant(variant)
    if len(entry.variants) > 1:
        raise InvalidInput(
            f"this build has {len(entry.variants)} variants",
            why=", ".join(one.variant for one in entry.variants),
            hint="name one (--variant), or a folder that takes the bundle of each",
        )
    return entry.variants[0]


def _pack(
    build_dir: Path,
    entry: BuildRecord,
    chosen: VariantRecord,
    release: int,
    signer: Signer | None,
    secret: bytes | None,
) -> Packed:
    blobs = _read_all(build_dir / chosen.variant, chosen.files) | _read_all(build_dir / record.SHARED, entry.shared)
    payload = _check_payload(entry, chosen, blobs[record.PAYLOAD])
    _check_profile(entry, chosen, blobs[record.PROFILE])
    _check_golden(build_dir, entry, chosen, blobs)
    _check_signature(entry, blobs)
    chosen = _with_operators(chosen, blobs[record.PAYLOAD])
    sealed = None if secret is None else _seal(secret, entry, chosen, release, blobs)
    documents = _add_documents(entry, chosen, release, payload, blobs, signer)
    manifest = _manifest(entry, chosen, release, documents, sealed, blobs)
    data = encode_bundle(manifest, blobs)
    if chosen.budgets.max_disk_bytes and len(data) > chosen.budgets.max_disk_bytes:
        raise OverSize(
            f"the bundle of {chosen.variant} has {len(data)} bytes",
            why=f"its budget max_disk_bytes is {chosen.budgets.max_disk_bytes}",
            hint="quantize further, shorten its files, or raise the budget in the recipe",
        )
    return Packed(manifest, data)


def _read_all(folder: Path, files: tuple[Blob, ...]) -> dict[str, bytes]:
    return {blob.name: _read_checked(folder, blob) for blob in files}


def _read_checked(folder: Path, blob: Blob) -> bytes:
    path = folder / blob.name
    try:
        data = path.read_bytes() if path.stat().st_size == blob.size_bytes else b""
    except OSError as error:
        raise InvalidInput(f"{folder} does not hold a whole build", why=f"{blob.name}: {error.strerror}") from error
    if sha256_hex(data) != blob.sha256:
        raise DigestMismatch(
            f"{blob.name} of {folder} is not the file that was built", hint="build it again: dsops model build RECIPE"
        )
    return data


def _check_payload(entry: BuildRecord, chosen: VariantRecord, data: bytes) -> Payload:
    """Check the payload's structure, and that it is the one that was recorded."""
    lint(data, LintLimits(custom_operators=frozenset(chosen.custom_operators)))
    payload = read_payload(data)
    if chosen.measured_as is None:
        model = LitertModel(data)
        _meaning(entry).check(model)
        if (model.inputs, model.outputs) != (chosen.inputs, chosen.outputs):
            raise GoldenMismatch(f"the payload of {chosen.variant} has other inputs or outputs than were recorded")
    return payload


def _with_operators(chosen: VariantRecord, payload: bytes) -> VariantRecord:
    """Say of a variant what its payload needs of a runtime; a device asks before it fetches anything."""
    compatibility = chosen.compatibility.model_copy(update={"operators": operators_of(payload)})
    return chosen.model_copy(update={"compatibility": compatibility})


def _check_profile(entry: BuildRecord, chosen: VariantRecord, data: bytes) -> None:
    try:
        profile = Profile.decode(data)
    except MalformedBundle as error:
        raise InvalidInput("the build's profile is damaged", why=str(error)) from error
    try:
        check_profile(profile, entry.task, entry.labels, chosen.inputs, chosen.outputs)
    except MalformedBundle as error:
        raise GoldenMismatch(f"the profile of {chosen.variant} is another model's", why=str(error)) from error


def _check_golden(build_dir: Path, entry: BuildRecord, chosen: VariantRecord, blobs: Mapping[str, bytes]) -> None:
    try:
        golden = GoldenSet.decode(blobs[record.GOLDEN])
    except MalformedBundle as error:
        raise InvalidInput("the build's golden inputs are damaged", why=str(error)) from error
    runnable = blobs[record.PAYLOAD]
    if chosen.measured_as is not None:
        other = entry.variant(chosen.measured_as)
        runnable = _read_all(build_dir / other.variant, other.files)[record.PAYLOAD]
    check_golden(runnable, golden, _meaning(entry))


def _check_signature(entry: BuildRecord, blobs: Mapping[str, bytes]) -> None:
    """Check that the signature speaks of the source model; whose it is was checked when the model was read."""
    if entry.signature is None:
        return
    digests = {file.digest for file in signed_files(blobs[entry.signature])}
    if entry.lineage.source_sha256 not in digests:
        raise UntrustedBundle(f"{entry.signature} does not cover the source model of this build")


def _seal(secret: bytes, entry: BuildRecord, chosen: VariantRecord, release: int, blobs: dict[str, bytes]) -> Sealed:
    """Put ciphertexts in the place of payload and golden inputs. What documents say of the blobs is said of these."""
    identity = Identity(entry.model, release, chosen.variant)
    sealed, ciphertexts = seal(secret, identity, {name: blobs[name] for name in (record.PAYLOAD, record.GOLDEN)})
    blobs |= ciphertexts
    return sealed


def _meaning(entry: BuildRecord) -> Meaning:
    return Meaning(entry.task, entry.postprocessing, entry.labels, entry.preprocessing)


def _add_documents(
    entry: BuildRecord,
    chosen: VariantRecord,
    release: int,
    payload: Payload,
    blobs: dict[str, bytes],
    signer: Signer | None,
) -> Documents:
    """Add the documents to the blobs, each about those before it, and return their names."""

    def subject() -> Subject:
        return Subject(entry, chosen, release, payload, describe_blobs(blobs), text)

    text = read_card(blobs[entry.model_card]) if entry.model_card else ""
    card = entry.model_card or record.MODEL_CARD
    _check_free(blobs, {SBOM, PROVENANCE} | ({card} - {entry.model_card}))
    if entry.model_card is None:
        blobs[card] = write_card(subject())
    blobs[SBOM] = bill_of_materials(subject())
    if signer is not None:
        blobs[PROVENANCE] = provenance(subject(), signer)
    return Documents(
        model_card=card, sbom=SBOM, provenance=PROVENANCE if signer is not None else None, signature=entry.signature
    )


def _check_free(blobs: Mapping[str, bytes], names: set[str]) -> None:
    taken = sorted(names & blobs.keys())
    if taken:
        raise InvalidInput(f"the recipe has a file {taken[0]}", why="dsops writes one of that name", hint="rename it")


def _manifest(
    entry: BuildRecord,
    chosen: VariantRecord,
    release: int,
    documents: Documents,
    sealed: Sealed | None,
    blobs: Mapping[str, bytes],
) -> Manifest:
    told: dict[str, object] = {} if sealed is None else {"format": FORMAT_SEALED, "sealed": sealed}
    fields = entry.model_dump(include=set(_KEPT)) | chosen.model_dump(include=set(_OF_VARIANT))
    try:
        return Manifest.model_validate(
            fields
            | told
            | {
                "release": release,
                "files": entry.attachments,
                "documents": documents,
                "blobs": describe_blobs(blobs),
            }
        )
    except ValidationError as error:
        raise InvalidInput("this build and release make no valid manifest", why=first_problem(error)) from error


def _write(path: Path, packed: Packed) -> None:
    if not path.parent.is_dir():
        raise InvalidInput(f"cannot write {path}", why=f"there is no folder {path.parent}")
    try:
        write_atomically(path, packed.data)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}", why=str(error.strerror)) from error
