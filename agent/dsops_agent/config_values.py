"""What tables of the agent's configuration are made of."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo


def against_file(path: Path, info: ValidationInfo) -> Path:
    """Return a path that counts from the folder of the configuration, when there is one."""
    folder = (info.context or {}).get("folder", Path())
    return Path(folder) / path


def host_and_port(text: str) -> str:
    """Return an address, host:port.

    Raises:
        ValueError: It is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("it is not host:port")
    return text


def _no_empty_path(value: object) -> object:
    if value == "":
        raise ValueError("it is empty; leave the key out")
    return value


FilePath = Annotated[Path, BeforeValidator(_no_empty_path), AfterValidator(against_file)]
Address = Annotated[str, AfterValidator(host_and_port)]


class Section(BaseModel):
    """A table of the file: immutable, and an unknown key is an error, as is a number without end."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False, allow_inf_nan=False)
