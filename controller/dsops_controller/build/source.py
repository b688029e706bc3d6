"""Reads what a recipe names: the source model, its signature, the data and the files that go along."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsops import tflite_lint
from dsops.bundle import file_digest
from dsops.errors import InvalidInput
from dsops.manifest import Attachment, Preprocessing, TensorSpec
from dsops.profile import MIN_REFERENCE
from dsops_controller.build import record
from dsops_controller.build.conversion.convert import read_model
from dsops_controller.build.conversion.limits import MAX_MODEL_BYTES
from dsops_controller.build.data import DataSet, Sensing, read_data
from dsops_controller.build.model_signature import verify_model_signature
from dsops_controller.build.recipe_file import Recipe
from dsops_controller.build.registry import located

MAX_FILE_BYTES = 1 << 24
"""A file that goes along with a model is no larger; a card, a table or a configuration is small."""


@dataclass(frozen=True)
class Source:
    """The source model.

    Attributes:
        name: Its file's name.
        sha256: Digest of its file.
        onnx: The file, when it is ONNX.
        float_model: The float TFLite model.
        signer: Who signed it, when its signature was checked.
        facts: What the registry says that it came from, if it did.
    """

    name: str
    sha256: str
    onnx: bytes | None
    float_model: bytes
    signer: str | None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """Files that go into the bundle of every variant, and what each is."""

    files: Mapping[str, bytes]
    attachments: tuple[Attachment, ...]
    model_card: str | None
    signature: str | None


def read_source(recipe: Recipe, folder: Path) -> Source:
    """Read, convert and check the source model.

    Raises:
        InvalidInput: The file cannot be read.
        InvalidModel: It is not a sound model.
        UnsupportedModel: It cannot be converted.
        UntrustedBundle: Its signature does not fit.
        DsopsError: It is in a registry that does not give it; see :func:`located`.
    """
    with located(recipe.model.source, folder) as found:
        path = found.path
        signer = _check_signature(recipe, folder, path)
        float_model = read_model(path)
        tflite_lint.lint(float_model)
        onnx = read_bytes(path, MAX_MODEL_BYTES) if path.suffix == ".onnx" else None
        return Source(path.name, file_digest(path)[0], onnx, float_model, signer, found.facts)


def read_shared(recipe: Recipe, folder: Path) -> Shared:
    """Read the files that go along, the model card and the source's signature.

    Raises:
        InvalidInput: One cannot be read, or is too large.
    """
    wanted = {name: entry.source for name, entry in recipe.files.items()}
    card = record.MODEL_CARD if recipe.model.card else None
    signature = record.SIGNATURE if recipe.model.signature else None
    if recipe.model.card:
        wanted[record.MODEL_CARD] = recipe.model.card
    if recipe.model.signature:
        wanted[record.SIGNATURE] = recipe.model.signature
    return Shared(
        files={name: read_small(folder / source) for name, source in wanted.items()},
        attachments=tuple(Attachment(blob=name, kind=entry.kind) for name, entry in sorted(recipe.files.items())),
        model_card=card,
        signature=signature,
    )


def read_datasets(
    recipe: Recipe, folder: Path, inputs: Sequence[TensorSpec], sections: Sequence[Preprocessing] = ()
) -> dict[str, DataSet]:
    """Read the data of every purpose but training, each file once, so that a wrong one is said before long steps.

    Raises:
        InvalidInput: A file or an array is wrong; the text names it.
    """
    sensing = Sensing({section.input: section for section in sections}, recipe.data.form)
    read: dict[str, DataSet] = {}
    found: dict[str, DataSet] = {}
    for purpose, name in recipe.data.files().items():
        if purpose != "training":
            if name not in read:
                what = f"the {purpose} data"
                read[name] = read_data(folder / name, inputs, what, needs_truth=False, sensing=sensing)
            found[purpose] = read[name]
    count = len(found["profile"])
    if count < MIN_REFERENCE:
        raise InvalidInput(
            f"the profile data {recipe.data.files()['profile']} has {count} frames",
            why=f"a drift profile of fewer than {MIN_REFERENCE} gives false alarms",
            hint=f"give {MIN_REFERENCE} held-out frames, better 500, in data.profile; they need no truth",
        )
    return found


def dataset_digests(recipe: Recipe, folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each data file, by purpose.

    Raises:
        InvalidInput: One cannot be read.
    """
    digests = {}
    for purpose, name in recipe.data.files().items():
        _require_regular(folder / name)
        try:
            digests[purpose] = file_digest(folder / name)[0]
        except OSError as error:
            raise InvalidInput(f"cannot read the {purpose} data {name}", why=str(error.strerror)) from error
    return digests


def read_small(path: Path) -> bytes:
    """Read a small file.

    Raises:
        InvalidInput: It cannot be read, or is too large.
    """
    return read_bytes(path, MAX_FILE_BYTES)


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """Read a file that is no larger than a limit.

    Raises:
        InvalidInput: It cannot be read, or is larger.
    """
    _require_regular(path)
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=str(error.strerror)) from error
    if len(data) > limit_bytes:
        raise InvalidInput(f"{path.name} is too large", why=f"{limit_bytes} bytes are allowed")
    return data


def _require_regular(path: Path) -> None:
    """Refuse pipes and devices, which may never end; what is absent is said by whoever opens it."""
    if path.exists() and not path.is_file():
        raise InvalidInput(f"cannot read {path}", why="it is not a regular file")


def _check_signature(recipe: Recipe, folder: Path, path: Path) -> str | None:
    section = recipe.model
    if section.signature is None or section.signature_key is None:
        return None
    return verify_model_signature(
        read_small(folder / section.signature),
        read_small(folder / section.signature_key),
        {path.name: read_bytes(path, MAX_MODEL_BYTES)},
    )
