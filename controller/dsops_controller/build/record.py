"""What a build leaves for packaging: ``build.json``, beside the files that it describes."""

from pathlib import Path

from pydantic import ValidationError

from dsops import strictjson
from dsops.errors import InvalidInput
from dsops.manifest import (
    Blob,
    Compatibility,
    Frozen,
    Limits,
    Lineage,
    Name,
    Preprocessing,
    TensorSpec,
    first_problem,
)

FILE_NAME = "build.json"
PAYLOAD = "model.tflite"
FLOAT_MODEL = "float.tflite"
PROFILE = "profile.json"
GOLDEN = "golden.bin"
REPORT = "report.json"
PACKED = (PAYLOAD, PROFILE, GOLDEN)
"""The files of a build that become blobs of its bundle."""


class BuildRecord(Frozen):
    """Everything that the manifest needs besides the release; ``files`` are those that become blobs."""

    format: int = 1
    model: Name
    variant: str
    description: str
    labels: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing
    compatibility: Compatibility
    limits: Limits
    lineage: Lineage
    metrics: dict[str, float]
    files: tuple[Blob, ...]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return strictjson.dumps(self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path) -> "BuildRecord":
        """Read the record of a build folder.

        Raises:
            InvalidInput: The folder does not hold a build.
        """
        path = folder / FILE_NAME
        try:
            return cls.model_validate(strictjson.loads(path.read_bytes()))
        except OSError as error:
            raise InvalidInput(
                f"{folder} does not hold a build", why=f"{path.name}: {error.strerror}", hint="dsops model build RECIPE"
            ) from error
        except strictjson.JsonRefused as error:
            raise InvalidInput(f"{path} is not strict JSON", why=str(error)) from error
        except ValidationError as error:
            raise InvalidInput(f"{path} is not a build record", why=first_problem(error)) from error
