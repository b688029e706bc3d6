"""Key files: PEM PKCS #8, one key a file, mode 0600.

The keys of a ceremony (``root-1.pem``, ``targets-1.pem``, ``fleet.pem``, ``policy.pem``, ``model-<m>.pem``) belong
offline: on removable media or an air-gapped machine, each with its holder. Whoever has them decides what a fleet runs.
The server holds only ``snapshot.pem``, ``timestamp.pem`` and ``director.pem``; with them a thief chooses among
approved releases, no more.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from pydantic import ValidationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from dsops import dsse, strictjson
from dsops.errors import InvalidInput, NotFound, UntrustedBundle
from dsops.files import write_secret
from dsops.manifest import Frozen

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")
PUBLIC_FILE = "online.json"
ONLINE = ("snapshot", "timestamp", "director")
"""Keys of the server."""


def public_key(private: ed25519.Ed25519PrivateKey) -> SSlibKey:
    """Return the TUF form of a key's public half."""
    return SSlibKey.from_crypto(private.public_key())


@dataclass(frozen=True)
class KeyFolder:
    """A folder with Ed25519 keys by name."""

    path: Path

    def names(self, prefix: str) -> tuple[str, ...]:
        """Return the names of the keys that begin with ``prefix``, sorted."""
        return tuple(sorted(file.stem for file in self.path.glob(f"{prefix}*.pem")))

    def make(self, name: str) -> CryptoSigner:
        """Return the key of that name; it is made if it is not there, so that an interrupted ceremony goes on."""
        if not self._file(name).exists():
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_secret(self._file(name), _pem(ed25519.Ed25519PrivateKey.generate()))
        return self.signer(name)

    def signer(self, name: str) -> CryptoSigner:
        """Return what signs TUF metadata with one key.

        Raises:
            NotFound: There is no such key.
            InvalidInput: The file holds no Ed25519 key.
        """
        return CryptoSigner(self.private(name))

    def private(self, name: str) -> ed25519.Ed25519PrivateKey:
        """Return one private key.

        Raises:
            NotFound: There is no such key.
            InvalidInput: The file holds no Ed25519 key.
        """
        try:
            key = serialization.load_pem_private_key(self._file(name).read_bytes(), password=None)
        except OSError as error:
            hint = "bring the folder with the offline keys: --keys FOLDER"
            raise NotFound(f"there is no key {name}", why=f"{self.path}: {error.strerror}", hint=hint) from error
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{name}.pem is not a key in PEM without a passphrase", why=str(error)[:200]) from error
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise InvalidInput(f"{name}.pem is not an Ed25519 key")
        return key

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name!r} is not a key's name")
        return self.path / f"{name}.pem"


class OnlinePublic(Frozen):
    """The public halves of the server's keys (PEM): what a ceremony needs of a server, and all it needs."""

    snapshot: str
    timestamp: str
    director: str

    @classmethod
    def read(cls, folder: Path) -> "OnlinePublic":
        """Read what :meth:`OnlineKeys.create` left for the first ceremony.

        Args:
            folder: The folder of the server's keys, or a copy of the file itself.

        Raises:
            NotFound: The server was not set up yet.
            InvalidInput: The file is not valid.
        """
        try:
            file = folder / PUBLIC_FILE if folder.is_dir() else folder
            return cls.model_validate(strictjson.loads(file.read_bytes()))
        except OSError as error:
            hint = "set the server up first: dsops server init"
            raise NotFound("the server has no keys yet", why=f"{folder}: {error.strerror}", hint=hint) from error
        except (strictjson.JsonRefused, ValidationError) as error:
            raise InvalidInput(f"{PUBLIC_FILE} is not valid", why=str(error)[:300]) from error


@dataclass(frozen=True)
class OnlineKeys:
    """The keys that the server itself holds, in ``keys/``.

    A role may have several: the one that counts and, while a rotation is under way, its successor. Which one counts is
    said by the published metadata alone, so a rotation takes effect with its publication, all at once, and the server
    is never without a working key. Nothing is cached: the folder is the truth.
    """

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> "OnlineKeys":
        """Make the keys that are missing, and the file with their public halves."""
        keys = KeyFolder(folder)
        for name in ONLINE:
            keys.make(name)
        pems = {name: dsse.public_pem(keys.private(name).public_key()) for name in ONLINE}
        write_secret(folder / PUBLIC_FILE, strictjson.dumps(OnlinePublic(**pems).model_dump(mode="json")))
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> "OnlineKeys":
        """Check that every role has a key.

        Raises:
            NotFound: One is missing.
            InvalidInput: One is not an Ed25519 key.
        """
        online = cls(folder)
        for role in ONLINE:
            online.all(role)
        return online

    def all(self, role: str) -> tuple[ed25519.Ed25519PrivateKey, ...]:
        """Return every key of ``snapshot``, ``timestamp`` or ``director``, the first one first.

        Raises:
            NotFound: There is none.
            InvalidInput: One is not an Ed25519 key.
        """
        keys = KeyFolder(self.folder)
        return tuple(keys.private(name) for name in keys.names(role) or (role,))

    def signer(self, role: str, named: Iterable[str]) -> CryptoSigner:
        """Return what signs ``snapshot`` or ``timestamp`` with the key that is named.

        Args:
            role: The role.
            named: Ids of the keys that the newest root names for it.

        Raises:
            UntrustedBundle: The server has none of them.
        """
        wanted = set(named)
        for signer in map(CryptoSigner, self.all(role)):
            if signer.public_key.keyid in wanted:
                return signer
        raise UntrustedBundle("the root does not name this server's keys", why=f"{role}: the server has another key")

    def directors(self, named: Iterable[str]) -> tuple[ed25519.Ed25519PrivateKey, ...]:
        """Return the director's keys whose ids (:func:`dsops.dsse.key_id`) are named."""
        wanted = set(named)
        return tuple(key for key in self.all("director") if dsse.key_id(key.public_key()) in wanted)

    def prepare(self, role: str) -> str:
        """Make another key for a role and return its public half (PEM); it counts once metadata that names it is out.

        Raises:
            InvalidInput: The server has no such role.
        """
        if role not in ONLINE:
            raise InvalidInput(f"{role} is not a role of the server", why=f"it has {', '.join(ONLINE)}")
        private = ed25519.Ed25519PrivateKey.generate()
        name = f"{role}-{dsse.key_id(private.public_key())[:12]}"
        write_secret(self.folder / f"{name}.pem", _pem(private))
        return dsse.public_pem(private.public_key())

    def forget(self, role: str, replaced: Iterable[str]) -> None:
        """Delete keys of a role that published metadata named once and names no more; one key always stays.

        Args:
            role: The role.
            replaced: Their ids: of TUF keys, for the director of :func:`dsops.dsse.key_id`.
        """
        gone = set(replaced)
        keys = KeyFolder(self.folder)
        found = {name: keys.private(name) for name in keys.names(role)}
        old = [name for name, key in found.items() if gone & {public_key(key).keyid, dsse.key_id(key.public_key())}]
        for name in old if len(old) < len(found) else ():
            (self.folder / f"{name}.pem").unlink(missing_ok=True)


def tuf_key(pem: str) -> SSlibKey:
    """Return the TUF form of a PEM public key.

    Raises:
        UntrustedBundle: It is no key of a kind that is accepted.
    """
    return SSlibKey.from_crypto(dsse.load_public_key(pem))


def _pem(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
