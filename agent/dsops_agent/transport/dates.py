"""Certificates on a device whose clock is known to be behind: their dates are judged by trusted time.

A device without a battery-backed clock begins in 1970 and could not connect to anything: to it, every certificate is of
the future. OpenSSL is told to leave dates alone (``X509_V_FLAG_NO_CHECK_TIME``; everything else it checks as ever), and
right after the handshake, before a byte of ours goes out, the certificates are held against trusted time here. That is
a lower bound of the true time. So a certificate that ended before it is refused; one that begins after it may well be
valid, and is taken.

Only a certificate that an authority of ours issued directly is taken this way, because Python shows no more of the
chain than its first certificate.
"""

import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h, since 1.1.0; the ssl module has no name for it."""


def judge_dates_by(context: ssl.SSLContext, now: Callable[[], datetime], authorities: Path) -> None:
    """Let a client's context judge the dates of certificates by ``now``, a lower bound of the true time.

    Args:
        context: It must verify its peer.
        now: Trusted time.
        authorities: PEM file with the authorities that the context trusts.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no certificates.
    """
    assert context.verify_mode is ssl.CERT_REQUIRED, "without verification there is nothing to make up for"
    known = x509.load_pem_x509_certificates(authorities.read_bytes())
    context.verify_flags |= _NO_CHECK_TIME

    class JudgedSocket(ssl.SSLSocket):
        """Fails the handshake for a certificate that has ended."""

        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            der = self.getpeercert(binary_form=True)
            problem = date_problem(x509.load_der_x509_certificate(der), known, now()) if der else "there is none"
            if problem:
                raise ssl.SSLCertVerificationError(f"the server's certificate is refused: {problem}")

    context.sslsocket_class = JudgedSocket


def date_problem(leaf: x509.Certificate, authorities: list[x509.Certificate], now: datetime) -> str:
    """Return why a certificate must not be taken at a time that is ``now`` or later, or an empty text."""
    if leaf.not_valid_after_utc <= now:
        return f"it ended at {leaf.not_valid_after_utc.isoformat()}, and it is {now.isoformat()} or later"
    issuers = [authority for authority in authorities if _has_issued(authority, leaf)]
    if not issuers:
        return "no authority of this device issued it directly, and the clock is not fit to judge a longer chain"
    if all(issuer.not_valid_after_utc <= now for issuer in issuers):
        return f"its authority ended at {issuers[0].not_valid_after_utc.isoformat()}"
    return ""


def _has_issued(authority: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
