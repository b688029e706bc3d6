"""Everything that is published at one moment: roles and the small targets that they sign. Pure but for the reading.

It has three forms: this value, a folder laid out as the server's own, and a message of the REST interface.
"""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field
from tuf.api.metadata import TargetFile

from dsops.errors import NotFound, StateDamaged, UntrustedBundle
from dsops.files import write_atomically
from dsops.manifest import Frozen
from dsops.trust import DIRECTOR_PATH, Director, Policy, policy_path
from dsops_controller.trust.roles import FLEET, POLICY, SignedRole, check_target
from dsops_controller.trust.state import TrustState, read_state

METADATA, TARGETS_FOLDER = "metadata", "targets"


class Documents(Frozen):
    """Files as they go over REST: names to base64."""

    metadata: dict[str, str] = Field(default={}, max_length=1000)
    targets: dict[str, str] = Field(default={}, max_length=1000)

    @classmethod
    def of(cls, metadata: Mapping[str, bytes], targets: Mapping[str, bytes]) -> "Documents":
        """Build the message from bytes."""
        return cls(metadata=_encoded(metadata), targets=_encoded(targets))

    def decoded(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return metadata and targets as bytes.

        Raises:
            UntrustedBundle: They are not base64.
        """
        return _decoded(self.metadata), _decoded(self.targets)


@dataclass(frozen=True)
class Published:
    """A state with the small targets that its roles sign.

    Attributes:
        state: The roles.
        targets: Bytes by target path: the director's keys and every model's policy.
    """

    state: TrustState
    targets: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Published":
        """Read the folder that :meth:`write` wrote, or a server's ``trust`` folder.

        Raises:
            NotFound: Nothing is published there.
            StateDamaged: Files are missing, damaged or not those that were signed.
        """
        if not (folder / METADATA / "timestamp.json").exists():
            raise NotFound("there is no trust metadata yet", why=str(folder), hint="see: dsops trust quickstart --help")
        try:
            return cls.assemble(
                lambda name: (folder / METADATA / name).read_bytes(),
                lambda target: (folder / TARGETS_FOLDER / stored_name(target)).read_bytes(),
            )
        except OSError as error:
            raise StateDamaged("the trust metadata cannot be read", why=str(error)) from error
        except UntrustedBundle as error:
            raise StateDamaged("the trust metadata is damaged", why=str(error)) from error

    @classmethod
    def of(cls, documents: Documents) -> "Published":
        """Read the message.

        Raises:
            StateDamaged: Files are missing, damaged or not those that were signed.
        """
        try:
            metadata, targets = documents.decoded()
            return cls.assemble(metadata.__getitem__, lambda target: targets[target.path])
        except (KeyError, UntrustedBundle) as error:
            raise StateDamaged("what the controller publishes is not complete", why=str(error)[:300]) from error

    @classmethod
    def assemble(cls, metadata: Callable[[str], bytes], target: Callable[[TargetFile], bytes]) -> "Published":
        """Build the value from what reads a metadata file by name, and a small target.

        Raises:
            StateDamaged: A file is not what leads to it says.
            UntrustedBundle: A small target is not what was signed.
        """
        state = read_state(metadata)
        for name, role in state.signed.items():
            if role.name != name:  # the name is also a file's name, and what names it may be hostile
                raise UntrustedBundle(f"the snapshot calls {role.name} {name[:80]!r}")
        small = {wanted.path: target(wanted) for wanted in small_targets(state.signed.values())}
        for role in state.signed.values():
            check_small(role, small)
        return cls(state, small)

    def documents(self) -> Documents:
        """Return the message."""
        return Documents.of(self.state.files(self.state.roles), self.targets)

    def write(self, folder: Path) -> None:
        """Write the folder; :meth:`read` reads it."""
        for name, data in self.state.files(self.state.roles).items():
            _put(folder / METADATA / name, data)
        for wanted in small_targets(self.state.signed.values()):
            _put(folder / TARGETS_FOLDER / stored_name(wanted), self.targets[wanted.path])

    def policy(self, model: str) -> Policy:
        """Return a model's policy.

        Raises:
            NotFound: There is none.
        """
        data = self.targets.get(policy_path(model))
        if data is None:
            raise NotFound(f"there is no model {model}", hint=f"grant it first: dsops model grant {model}")
        return Policy.decode(data)

    def director(self) -> Director:
        """Return the director's keys."""
        return Director.decode(self.targets[DIRECTOR_PATH])


def small_targets(roles: Iterable[SignedRole]) -> list[TargetFile]:
    """Return the targets of fleet and policy: small documents that go with the metadata."""
    return [target for role in roles if role.name in (FLEET, POLICY) for target in role.targets.targets.values()]


def check_small(role: SignedRole, small: Mapping[str, bytes]) -> None:
    """Check the small targets of a role: each is there, is what was signed, and is what its path says.

    Raises:
        UntrustedBundle: One is not.
    """
    for wanted in small_targets([role]):
        data = small.get(wanted.path)
        if data is None:
            raise UntrustedBundle(f"{wanted.path} is signed but absent")
        check_target(wanted, data)
        if role.name == FLEET:
            Director.decode(data)
        elif (policy := Policy.decode(data)) and wanted.path != policy_path(policy.model):
            raise UntrustedBundle(f"{wanted.path} is the policy of {policy.model}")


def stored_name(target: TargetFile) -> str:
    """Return the name of a small target's file below ``targets/``: its digest stands before its name (TUF 1.0.33, 6.2).

    Raises:
        UntrustedBundle: The path leads elsewhere, or it has no SHA-256.
    """
    folder, _, name = target.path.rpartition("/")
    digest = target.hashes.get("sha256", "")
    if folder not in (FLEET, POLICY) or name.startswith(".") or not (len(digest) == 64 and digest.isalnum()):
        raise UntrustedBundle(f"{target.path[:80]!r} is not the path of a small target")
    return f"{folder}/{digest}.{name}"


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)


def _encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(data).decode() for name, data in files.items()}


def _decoded(files: Mapping[str, str]) -> dict[str, bytes]:
    try:
        return {name: base64.b64decode(data, validate=True) for name, data in files.items()}
    except binascii.Error as error:
        raise UntrustedBundle("the documents are not base64", why=str(error)) from error
