"""What no controller can do without when a device joins: its key, its request, a signature, and two TLS handshakes."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dsops.clock import SystemClock
from dsops_controller.fleet.ca import Authority, Issued
from measure.broker import HOST


@dataclass(frozen=True)
class Bare:
    """An authority and a server in memory; no network, no disk beyond the files that OpenSSL insists on."""

    folder: Path
    authority: Authority

    @classmethod
    def create(cls, folder: Path) -> "Bare":
        """Make both."""
        authority = Authority.create(folder, "bare", SystemClock())
        authority.issue_server([HOST]).save(folder, "server")
        return cls(folder, authority)

    def join(self, device: str) -> None:
        """Do the cryptography of one device that joins: enrolment by server-authenticated TLS, then mutual TLS."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
        shake(self._client(), self._server(mutual=False))
        made = self.authority.issue_device(request.public_bytes(serialization.Encoding.DER), device)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        Issued(made.certificate_pem, pem).save(self.folder, device)
        client = self._client()
        client.load_cert_chain(self.folder / f"{device}.crt", self.folder / f"{device}.key")
        shake(client, self._server(mutual=True))

    def _client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.folder / "ca.crt"))

    def _server(self, *, mutual: bool) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        if mutual:
            made.load_verify_locations(self.folder / "ca.crt")
            made.verify_mode = ssl.CERT_REQUIRED
        return made


def shake(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Make one full handshake in memory."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=HOST),
        server.wrap_bio(up, down, server_side=True),
    ]
    while ends:
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
