"""Renewal on the device: when, with what, what a refusal changes, and what status says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from dsops.api.v1.enrolment_pb2 import EnrolReply, EnrolRequest
from dsops.clock import ManualClock
from dsops.errors import DeviceBarred, EnrolmentRefused, GraceOver, NoSpace, StoreUnreachable, TokenExpired
from dsops.renewal import check_proof
from dsops_agent.config import Enrolment
from dsops_agent.credentials import Credentials
from dsops_agent.enrol import Applicant
from dsops_agent.identity import Fleet, Identity, IdentityFolder
from dsops_agent.renewal import Life, Renewer, Step, next_step

CA_KEY = ec.generate_private_key(ec.SECP256R1())
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY_S = 86400.0
LIFE = timedelta(days=90)
LIVES = Life(START, START + LIFE, START + LIFE * 2 / 3)


def name(cn: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def issue(csr_der: bytes, now: datetime) -> bytes:
    key = x509.load_der_x509_csr(csr_der).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    builder = x509.CertificateBuilder().subject_name(name("cam-1")).issuer_name(name("authority")).public_key(key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + LIFE)
    return builder.sign(CA_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class Controller:
    """Answers as a controller does; each refusal in ``says`` is given once."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.renewed: list[tuple[Identity, bytes]] = []
        self.enrolled: list[EnrolRequest] = []
        self.says: list[Exception | EnrolReply] = []

    def renew(self, identity: Identity, csr_der: bytes) -> EnrolReply:
        self.renewed.append((identity, csr_der))
        return self._answer(csr_der)

    def enrol(self, request: EnrolRequest) -> EnrolReply:
        self.enrolled.append(EnrolRequest.FromString(request.SerializeToString()))
        return self._answer(request.csr_der)

    def _answer(self, csr_der: bytes) -> EnrolReply:
        said = self.says.pop(0) if self.says else None
        if isinstance(said, Exception):
            raise said
        fleet = {"fleet": "f", "broker": "b:1", "store": "s:2", "topic_prefix": "p"}
        pem = issue(csr_der, self.clock.now())
        return said or EnrolReply(certificate_pem=pem, ca_pem=pem, **fleet)


class Device:
    def __init__(self, folder: Path, *, has_config: bool = True) -> None:
        self.clock = ManualClock(START)
        self.controller = Controller(self.clock)
        self.folder = IdentityFolder(folder / "identity")
        pem = issue(self.folder.request("cam-1"), START)
        self.folder.complete(pem, pem, Fleet(fleet="f", broker="b:1", store="s:2", topic_prefix="p"))
        self.changes: list[Identity] = []
        self.token = folder / "token"
        self.credentials = Credentials(self.folder, self.loaded(), self.clock, self._changed)
        config = Enrolment.model_validate({"address": "h:1", "ca": folder / "ca", "token": self.token})
        applicant = Applicant("cam-1", config, self.folder, {}, self.controller.enrol, self.clock)
        self.renewer = Renewer(
            "cam-1",
            self.folder,
            self.credentials,
            applicant if has_config else None,
            self.controller.renew,
            self.clock,
            lambda: 0.0,
        )

    def _changed(self) -> None:
        self.changes.append(self.credentials.current)

    def loaded(self) -> Identity:
        identity = self.folder.load("cam-1")
        assert identity is not None
        return identity

    def at_day(self, day: float) -> None:
        self.clock.advance((START + timedelta(days=day) - self.clock.now()).total_seconds())


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


@pytest.mark.parametrize(
    ("day", "has_token", "step"),
    [
        (0, False, Step.WAIT),
        (59.9, False, Step.WAIT),
        (60, False, Step.RENEW),
        (89.9, False, Step.RENEW),
        (90, False, Step.PROVE),
        (900, False, Step.PROVE),
        (0, True, Step.ENROL),
        (61, True, Step.ENROL),
        (91, True, Step.ENROL),
        (-9000, False, Step.WAIT),
    ],
)
def test_what_is_done_at_which_moment(day: float, has_token: bool, step: Step) -> None:
    assert next_step(LIVES, START + timedelta(days=day), has_token=has_token) is step


@given(st.floats(0, 1, exclude_max=True))
def test_renewal_is_due_soon_after_two_thirds_of_life(draw: float) -> None:
    folder = Path("identity/1")
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(name("cam-1")).sign(key, hashes.SHA256())
    pem = issue(csr.public_bytes(serialization.Encoding.DER), START)
    fleet = Fleet(fleet="f", broker="b:1", store="s:2", topic_prefix="p")
    life = Life.of(Identity("cam-1", fleet, key, x509.load_pem_x509_certificate(pem), folder), draw)
    assert 0 <= (life.due - START) / LIFE - 2 / 3 < 1 / 20 + 1e-9


def test_the_next_certificate_is_for_a_new_key_and_the_one_before_stays_until_it_worked(device: Device) -> None:
    old = device.credentials.current
    assert device.renewer.step() > 0
    device.at_day(60)
    device.renewer.step()
    new = device.credentials.current
    assert device.changes == [new]
    assert new.key.public_key() != old.key.public_key()
    assert (device.loaded().number, new.expires) == (new.number, device.clock.now() + LIFE)
    kept = device.folder.before("cam-1")
    assert kept is not None
    assert kept.certificate == old.certificate
    device.credentials.tls()
    device.credentials.accepted()
    assert device.folder.before("cam-1") is None
    assert not old.folder.exists()
    assert device.renewer.step() > 0
    assert len(device.controller.renewed) == 1


def test_a_failure_waits_longer_each_time_and_asks_for_the_same_key(device: Device) -> None:
    device.at_day(61)
    device.controller.says = [StoreUnreachable("away"), NoSpace("full"), OSError(5, "broken")]
    waits = [device.renewer.step() for _ in range(3)]
    assert waits == sorted(waits)
    assert 0 < waits[0] < waits[2] <= 3600
    assert device.renewer.problem
    device.renewer.step()
    assert device.renewer.problem == ""
    assert len({csr for _, csr in device.controller.renewed}) == 1


def test_from_three_quarters_of_life_status_warns(device: Device) -> None:
    device.at_day(66)
    device.controller.says = [StoreUnreachable("away")] * 2
    device.renewer.step()
    assert device.renewer.problem == "away"
    device.at_day(68)
    device.renewer.step()
    assert device.renewer.problem == "the certificate ends at 2026-04-01T00:00:00+00:00 and is not renewed: away"
    device.at_day(91)
    assert device.renewer.problem.startswith("the certificate ended at 2026-04-01")


def test_a_key_that_the_controller_does_not_take_is_replaced(device: Device) -> None:
    device.at_day(61)
    device.controller.says = [EnrolmentRefused("no", refusal="request.invalid_input"), DeviceBarred("no")]
    for _ in range(3):
        device.renewer.step()
    keys = [csr for _, csr in device.controller.renewed]
    assert keys[0] != keys[1] == keys[2]
    assert len(device.changes) == 1


def test_a_certificate_that_ended_is_renewed_by_a_proof_of_its_key(device: Device) -> None:
    old = device.credentials.current
    device.at_day(100)
    device.renewer.step()
    request = device.controller.enrolled[0]
    check_proof(request.proof, "cam-1", request.csr_der, old.key.public_key())
    assert device.controller.renewed == []
    assert device.credentials.current.expires > device.clock.now()


def test_after_the_grace_the_device_waits_for_an_operator_and_says_so(device: Device) -> None:
    device.at_day(200)
    device.controller.says = [GraceOver("over"), EnrolReply(pending=True, retry_s=20), EnrolReply(pending=True)]
    assert device.renewer.step() == 0
    assert device.renewer.step() == 15  # three quarters of what the controller says
    assert "pending: waits for dsops device accept cam-1" in device.renewer.problem
    device.renewer.step()
    device.renewer.step()
    assert [bool(request.proof) for request in device.controller.enrolled] == [True, False, False, False]
    assert len({request.csr_der for request in device.controller.enrolled}) == 1
    assert device.renewer.problem == ""


def test_without_an_enrolment_section_an_end_is_named_and_nothing_is_asked(tmp_path: Path) -> None:
    device = Device(tmp_path, has_config=False)
    device.at_day(91)
    assert device.renewer.step() > 0
    assert "ended" in device.renewer.problem
    assert (device.controller.renewed, device.controller.enrolled) == ([], [])


def test_a_new_token_enrols_anew_at_any_time(device: Device) -> None:
    device.token.write_text("fresh")
    device.renewer.step()
    assert [(request.token, request.proof) for request in device.controller.enrolled] == [("fresh", b"")]
    assert not device.token.exists()
    assert len(device.changes) == 1


def test_a_token_that_is_refused_does_not_keep_the_device_from_renewing(device: Device) -> None:
    device.at_day(61)
    device.token.write_text("stale")
    device.controller.says = [TokenExpired("too old")]
    device.renewer.step()
    assert device.renewer.problem == "too old"
    device.renewer.step()
    assert len(device.controller.renewed) == 1
    device.token.write_text("another")
    device.renewer.step()
    assert [request.token for request in device.controller.enrolled] == ["stale", "another"]


def test_a_token_that_cannot_be_read_does_not_either(device: Device) -> None:
    device.at_day(61)
    device.token.write_text("")
    device.renewer.step()
    assert len(device.changes) == 1


def test_a_clock_that_is_years_ahead_does_not_renew_for_ever(device: Device) -> None:
    device.controller.clock = ManualClock(START)  # the controller's clock is right
    device.at_day(365 * 20)
    for _ in range(50):
        device.renewer.step()
    assert len(device.changes) == 1
    device.clock.advance(9 * DAY_S)
    device.renewer.step()
    assert len(device.changes) == 2


@pytest.mark.parametrize("answers", ["old", "new"])
def test_a_broker_that_does_not_take_the_new_certificate_is_shown_the_old_one_in_turns(
    device: Device, answers: str
) -> None:
    old = device.credentials.current
    device.at_day(60)
    device.renewer.step()
    new = device.credentials.current
    shown: list[Identity] = []
    takes = {"old": old.number, "new": new.number}[answers]
    for _ in range(5):
        device.credentials.tls()
        shown.append(device.credentials._presented)
        if len(shown) < 4 or shown[-1].number != takes:
            device.credentials.refused()
        else:
            device.credentials.accepted()
            break
    numbers = [identity.number for identity in shown]
    assert numbers == ([2, 2, 2, 1] if answers == "old" else [2, 2, 2, 1, 2])
    assert (device.folder.before("cam-1") is None) == (answers == "new")


def test_an_identity_that_worked_stays_when_it_is_refused_later(device: Device) -> None:
    device.credentials.tls()
    device.credentials.accepted()
    for _ in range(10):
        device.credentials.refused()
        device.credentials.tls()
        assert device.credentials._presented is device.credentials.current
