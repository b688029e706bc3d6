"""Makes a bundle of a build: checks that its parts belong together, then writes one reproducible file."""

from pathlib import Path

from pydantic import ValidationError

from dsops.bundle import encode_bundle, sha256_hex
from dsops.errors import DigestMismatch, GoldenMismatch, InvalidInput, MalformedBundle
from dsops.files import write_atomically
from dsops.golden import GoldenSet
from dsops.manifest import Blob, Manifest, first_problem
from dsops.profile import Profile
from dsops_controller.build import record
from dsops_controller.build.golden import check_golden
from dsops_controller.build.record import BuildRecord


def build_bundle(build_dir: Path, release: int, out_path: Path) -> Manifest:
    """Write the bundle of a build. The same build and release give the same bytes; nothing in them is a time.

    Args:
        build_dir: A folder that :func:`dsops_controller.build.recipe.build_model` wrote.
        release: The bundle's number within its model.
        out_path: File to write; it is there whole or not at all.

    Raises:
        InvalidInput: The folder does not hold a build, the release is out of range, or the file cannot be written.
        DigestMismatch: A file of the build was changed since.
        GoldenMismatch: The payload does not answer its golden inputs as expected, or the profile is another model's.
        NoSpace: The disk is full.
    """
    entry = BuildRecord.read(build_dir)
    blobs = {blob.name: _read_checked(build_dir, blob) for blob in entry.files}
    manifest = _manifest(entry, release)
    _check_together(blobs, entry.labels)
    data = encode_bundle(manifest, blobs)
    if not out_path.parent.is_dir():
        raise InvalidInput(f"cannot write {out_path}", why=f"there is no folder {out_path.parent}")
    try:
        write_atomically(out_path, data)
    except OSError as error:
        raise InvalidInput(f"cannot write {out_path}", why=str(error.strerror)) from error
    return manifest


def _read_checked(folder: Path, blob: Blob) -> bytes:
    try:
        data = (folder / blob.name).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{folder} does not hold a whole build", why=f"{blob.name}: {error.strerror}") from error
    if sha256_hex(data) != blob.sha256:
        raise DigestMismatch(
            f"{blob.name} of {folder} is not the file that was built", hint="build it again: dsops model build RECIPE"
        )
    return data


def _manifest(entry: BuildRecord, release: int) -> Manifest:
    fields = entry.model_dump(exclude={"format", "files"})
    try:
        return Manifest.model_validate(fields | {"release": release, "blobs": entry.files})
    except ValidationError as error:
        raise InvalidInput("this build and release make no valid manifest", why=first_problem(error)) from error


def _check_together(blobs: dict[str, bytes], labels: tuple[str, ...]) -> None:
    try:
        profile = Profile.decode(blobs[record.PROFILE])
        golden = GoldenSet.decode(blobs[record.GOLDEN])
    except MalformedBundle as error:
        raise InvalidInput("the build's profile or golden inputs are damaged", why=str(error)) from error
    for signal in profile.signals:
        if signal.kind == "categorical" and len(signal.counts) != len(labels):
            raise GoldenMismatch(
                f"the profile knows {len(signal.counts)} classes", why=f"there are {len(labels)} labels"
            )
    check_golden(blobs[record.PAYLOAD], golden, labels)
