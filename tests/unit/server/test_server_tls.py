from pathlib import Path

import pytest
from cryptography import x509

from dsops.clock import ManualClock
from dsops.errors import StateDamaged
from dsops_controller.fleet.ca import HOST_LIFE, Authority
from dsops_controller.server.tls import RENEW_BEFORE, is_loopback, renew, server_credentials, server_names

NAMES = server_names("edge.example")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def authority(tmp_path: Path, clock: ManualClock) -> Authority:
    made = Authority.create(tmp_path / "ca", "test", clock)
    made.issue_server(NAMES).save(tmp_path / "ca", "server")
    made.issue_client().save(tmp_path / "ca", "controller")
    return made


def names_in(path: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def test_a_certificate_that_lasts_stays(tmp_path: Path, authority: Authority, clock: ManualClock) -> None:
    before = server_credentials(tmp_path).certificate.read_bytes()
    clock.advance((HOST_LIFE - RENEW_BEFORE).total_seconds() - 3600)
    assert renew(tmp_path, authority, clock) == []
    assert server_credentials(tmp_path).certificate.read_bytes() == before


def test_a_certificate_that_ends_soon_is_issued_again_for_the_same_names(
    tmp_path: Path, authority: Authority, clock: ManualClock
) -> None:
    clock.advance((HOST_LIFE - RENEW_BEFORE).total_seconds() + 3600)
    assert renew(tmp_path, authority, clock) == ["server", "controller"]
    assert names_in(server_credentials(tmp_path).certificate) == set(NAMES)
    assert renew(tmp_path, authority, clock) == []


def test_a_damaged_certificate_is_told(tmp_path: Path, authority: Authority, clock: ManualClock) -> None:
    server_credentials(tmp_path).certificate.write_text("nonsense")
    with pytest.raises(StateDamaged):
        renew(tmp_path, authority, clock)


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("h", False)]
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
