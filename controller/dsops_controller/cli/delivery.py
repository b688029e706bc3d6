"""Folders of files by their SHA-256: for a web server, and as kits for devices without a network."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dsops import strictjson
from dsops.bundle import Bundle, bundle_index, sha256_hex
from dsops.errors import DigestMismatch, InvalidInput
from dsops.files import write_atomically
from dsops.head import expires
from dsops.kit import KIT_FILE, Kit, KitBundle
from dsops.needs import needs_of
from dsops_controller.cli import output
from dsops_controller.client import Client

Row = dict[str, Any]
_HEAD = "timestamp.json"


@dataclass(frozen=True)
class Files:
    """A folder that holds files by their digest; made if it is not there.

    Raises:
        InvalidInput: It cannot be written.
    """

    folder: Path

    def __post_init__(self) -> None:
        """Make the folder."""
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise self._refusal(error) from error

    def put(self, data: bytes, name: str = "") -> str:
        """Write a file under its digest, unless another name is given; return the digest."""
        digest = sha256_hex(data)
        try:
            write_atomically(self.folder / (name or digest), data)
        except OSError as error:
            raise self._refusal(error) from error
        return digest

    def put_bundle(self, data: bytes) -> Row:
        """Write a bundle, its chunk index, and the document of what it needs."""
        index, sha256 = bundle_index(data), self.put(data)
        self.put(index.encode())
        self.put(needs_of(Bundle.open(self.folder / sha256).manifest, len(data)).encode())
        return {"sha256": sha256, "length_bytes": len(data), "index_sha256": index.digest}

    def _refusal(self, error: OSError) -> InvalidInput:
        return InvalidInput(f"cannot write into {self.folder}", why=str(error.strerror), hint="name a folder")


def export(names: Iterable[str], files: Files, client: Client | None) -> list[Row]:
    """Write bundles, their chunk indexes, and with a controller every document of trust.

    Args:
        names: Bundle files, or ``MODEL/RELEASE[/VARIANT]`` of the controller.
        files: The folder.
        client: The controller; needed for bundles that are named.

    Raises:
        InvalidInput: A name is neither, or the folder cannot be written.
        DsopsError: A bundle is damaged, or is not there.
    """
    written = [{"bundle": name, **files.put_bundle(_bundle(name, client))} for name in names]
    if client:
        _put_documents(client, files)
    return written


def make_kit(client: Client, device: str, files: Files) -> Kit:
    """Write everything that a device needs to install what it is to run, without a network.

    Raises:
        NotFound: The device is not known, or nothing is to be installed there.
        MalformedMetadata: The controller's head of trust cannot be read.
        DsopsError: A bundle is damaged, or the folder cannot be written.
    """
    said = client.directive(device)
    head = _put_documents(client, files)
    bundles = []
    for key, is_challenger in (("bundles", False), ("challengers", True)):
        for row in said[key]:
            facts = _facts(files.put_bundle(_fetched(client, row)))
            bundles.append(KitBundle(model=row["model"], release=row["release"], is_challenger=is_challenger, **facts))
    kit = Kit(
        device=device,
        expires=min(datetime.fromisoformat(said["expires"]), expires(head)),
        head=files.put(head),
        directive=files.put(base64.b64decode(said["envelope"])),
        bundles=tuple(bundles),
    )
    files.put(strictjson.dumps(kit.model_dump(mode="json")), KIT_FILE)  # last: it makes the folder a kit
    return kit


def _facts(row: Row) -> Row:
    return {"sha256": row["sha256"], "length_bytes": row["length_bytes"]}


def _put_documents(client: Client, files: Files) -> bytes:
    """Write everything that the head of the trust metadata leads to; return the head."""
    published = client.published()
    metadata = {name: base64.b64decode(text) for name, text in published["metadata"].items()}
    head = metadata.pop(_HEAD)
    for data in (*metadata.values(), *map(base64.b64decode, published["targets"].values())):
        files.put(data)
    return head


def _bundle(name: str, client: Client | None) -> bytes:
    path = Path(name)
    if path.is_file():
        Bundle.open(path).verify()
        return output.read_file(path)
    model, _, rest = name.partition("/")
    release, _, variant = rest.partition("/")
    if client is None or not release.isdecimal():
        raise InvalidInput(f"{name} is neither a file nor MODEL/RELEASE", hint="for example: digits/2")
    return _fetched(client, client.bundle(model, int(release), variant or None))


def _fetched(client: Client, row: Row) -> bytes:
    data = client.bundle_file(row["model"], row["release"], row["variant"])
    if sha256_hex(data) != row["sha256"]:
        raise DigestMismatch(f"{row['path']} is damaged on the server", hint="push it again: dsops bundle push")
    return data
