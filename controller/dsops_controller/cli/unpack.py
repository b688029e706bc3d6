"""Archives of files that a controller sends, put into a new folder."""

import io
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from dsops.errors import InvalidInput, ServerUnreachable

_PART = ".part"


def check_folder(folder: Path) -> None:
    """Check that a folder can be made there, before work is done that would be lost.

    Raises:
        InvalidInput: It is there already and not empty, or the folder that it shall be in is not.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"cannot write {folder}", why="it is there already, and not empty", hint="name a new folder")
    if not folder.absolute().parent.is_dir():
        raise InvalidInput(f"cannot write {folder}", why=f"there is no folder {folder.parent}", hint="make it first")


def unpack(data: bytes, folder: Path) -> int:
    """Write the files of a ZIP archive below a new folder, which appears only when all are there; return how many.

    Raises:
        ServerUnreachable: It is no archive of files below one folder.
    """
    part = folder.with_name(folder.name + _PART)
    shutil.rmtree(part, ignore_errors=True)  # of a command that was killed
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            for name in names:
                path = part / _checked(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))
    except zipfile.BadZipFile as error:
        raise ServerUnreachable("the answer is no archive", why=str(error)) from error
    if folder.exists():
        folder.rmdir()
    part.rename(folder)
    return len(names)


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise ServerUnreachable(f"the answer has a file {name[:80]!r}", hint="check the url in the context file")
    return path
