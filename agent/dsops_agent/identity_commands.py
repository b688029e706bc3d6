"""What ``dsops-agent identity`` shows and removes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dsops.errors import AlreadyRunning, NotFound, StateDamaged
from dsops_agent.identity import Identity, IdentityFolder, fingerprint
from dsops_agent.status import StateLock


@dataclass(frozen=True)
class Shown:
    """A device's identity for people; without a certificate only its key is known.

    Attributes:
        key_sha256: What an operator compares, and what a list of preauthorized devices holds.
        ca_sha256: Digest of the authority that the device believes, as it is certified (DER).
    """

    device: str
    key_sha256: str
    serial: str = ""
    expires: str = ""
    ca_sha256: str = ""

    def as_dict(self) -> Mapping[str, str]:
        """Return it as JSON has it."""
        return asdict(self)

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Return it as a table."""
        listed = ("line to preauthorize it", f"{self.device},{self.key_sha256}")
        certified = (
            ("certificate", f"serial {self.serial}, ends {self.expires}"),
            ("authority (SHA-256)", self.ca_sha256),
        )
        return (
            ("device", self.device),
            ("key (SHA-256)", self.key_sha256),
            *(certified if self.serial else (("certificate", "none yet"), listed)),
        )


def show(state: Path, device: str) -> Shown:
    """Return the identity of a device; its key is made when there is none yet.

    Raises:
        NotFound: There is no key yet, and an agent that is about to make one runs.
        StateDamaged: The identity cannot be read.
        NoSpace: The disk is full.
    """
    folder = IdentityFolder(state / "identity")
    lock = StateLock(state)
    try:
        lock.take()
    except AlreadyRunning:
        return _found(folder, device)
    try:
        identity = folder.load(device)
        return _certified(identity) if identity else Shown(device, fingerprint(folder.key()))
    finally:
        lock.release()


def reset(state: Path) -> None:
    """Remove every key and certificate of the device; what it believes of the fleet, and its models, stay.

    Raises:
        AlreadyRunning: An agent uses the folder.
        StateDamaged: The files cannot be removed.
    """
    lock = StateLock(state)
    lock.take()
    try:
        IdentityFolder(state / "identity").reset()
    except OSError as error:
        raise StateDamaged("the identity cannot be removed", why=str(error), hint="use the agent's user") from error
    finally:
        lock.release()


def _found(folder: IdentityFolder, device: str) -> Shown:
    identity = folder.load(device)
    if identity is not None:
        return _certified(identity)
    key = folder.key_made()
    if key is None:
        raise NotFound("the device has no key yet", why="an agent makes it at this moment", hint="ask again")
    return Shown(device, fingerprint(key))


def _certified(identity: Identity) -> Shown:
    ca = x509.load_pem_x509_certificates(identity.ca_path.read_bytes())[0]
    return Shown(
        identity.device,
        fingerprint(identity.key),
        f"{identity.certificate.serial_number:x}",
        identity.expires.isoformat(timespec="seconds"),
        ca.fingerprint(hashes.SHA256()).hex(),
    )
