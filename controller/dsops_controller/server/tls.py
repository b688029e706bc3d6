"""Where the server's certificates and keys are, and their renewal."""

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from dsops.clock import Clock
from dsops.errors import StateDamaged
from dsops_controller.fleet.ca import Authority

RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class Credentials:
    """Files of one identity: whom to believe, who one is, and the key that proves it."""

    ca: Path
    certificate: Path
    key: Path


def server_credentials(folder: Path) -> Credentials:
    """Return the identity of the broker, the gRPC interfaces and the REST interface."""
    return _credentials(folder, "server")


def controller_credentials(folder: Path) -> Credentials:
    """Return the controller's identity at the broker."""
    return _credentials(folder, "controller")


def renew(folder: Path, authority: Authority, clock: Clock) -> list[str]:
    """Issue those of the server's certificates again that end soon, for the same names; return which.

    Raises:
        StateDamaged: A certificate cannot be read.
    """
    renewed = []
    for name in ("server", "controller"):
        certificate = _read(_credentials(folder, name).certificate)
        if certificate.not_valid_after_utc - clock.now() < RENEW_BEFORE:
            issued = authority.issue_server(_hosts(certificate)) if name == "server" else authority.issue_client()
            issued.save(folder / "ca", name)
            renewed.append(name)
    return renewed


def server_names(host: str) -> list[str]:
    """Return the names in a server's certificate: the advertised one first, and those of the machine itself."""
    return list(dict.fromkeys([host, "localhost", "127.0.0.1", "::1"]))


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _credentials(folder: Path, name: str) -> Credentials:
    ca = folder.resolve() / "ca"
    return Credentials(ca / "ca.crt", ca / f"{name}.crt", ca / f"{name}.key")


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StateDamaged(f"certificate {path} cannot be read", why=str(error)) from error


def _hosts(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]
