"""The signing request of a device (PKCS #10, RFC 2986), bound to the key that content keys are wrapped to.

A signing request is no secret. Unless it named the other key, who sees one could send it again with a key of his own,
and have the keys of encrypted payloads wrapped to himself. It is named by the attribute ``unstructuredName`` (RFC 2985
section 5.4.2), which the signature of the device covers.
"""

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AttributeOID, NameOID

from dsops.bundle import sha256_hex

_HEAD = b"dsops-content-key:"


def make_request(device: str, key: ec.EllipticCurvePrivateKey, content_public_key: bytes) -> bytes:
    """Return the request (DER) of a device for ``key``, which names its X25519 key (32 bytes)."""
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)]))
    builder = builder.add_attribute(AttributeOID.UNSTRUCTURED_NAME, _name_of(content_public_key))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def names_content_key(request_der: bytes, content_public_key: bytes) -> bool:
    """Return whether a request, whose signature was checked, names that X25519 key."""
    try:
        attribute = x509.load_der_x509_csr(request_der).attributes.get_attribute_for_oid(AttributeOID.UNSTRUCTURED_NAME)
    except (ValueError, x509.AttributeNotFound):
        return False
    return attribute.value == _name_of(content_public_key)


def _name_of(content_public_key: bytes) -> bytes:
    return _HEAD + sha256_hex(content_public_key).encode()
