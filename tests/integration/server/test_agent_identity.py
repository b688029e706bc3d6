"""The agent's own enrolment and renewal against the real controller: every way in, and each refusal by its class."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from dsops.clock import SystemClock
from dsops.errors import DeviceBarred, EnrolmentPending, EnrolmentRefused, IdentityTaken, TokenUnknown, TokenUsed
from dsops_agent.config import Enrolment
from dsops_agent.enrol import Applicant, GrpcEnroller, accept, renew_over_grpc
from dsops_agent.identity import IdentityFolder, fingerprint
from dsops_agent.transport.grpc import mutually_authenticated

pytestmark = pytest.mark.integration

Make = Callable[..., Applicant]


@pytest.fixture
def make(site: Any, server: Any, tmp_path: Path) -> Make:
    def applicant(device: str, place: str = "") -> Applicant:
        address, ca = f"127.0.0.1:{site.ports.enrolment}", site.folder / "ca" / "ca.crt"
        config = Enrolment.model_validate({"address": address, "ca": ca})
        folder = IdentityFolder(tmp_path / (place or device))
        return Applicant(device, config, folder, {"hardware": "x"}, GrpcEnroller(config), SystemClock())

    return applicant


def test_a_device_joins_by_token_and_renews_with_a_new_key(make: Make, operator: Any) -> None:
    joining = make("cam-1")
    first = joining.enrol(operator.new_token("cam-1", 60)["token"])
    request = joining.folder.request("cam-1")
    lost = renew_over_grpc(first, request)  # its answer never reaches the disk
    assert lost.certificate_pem
    second = accept(renew_over_grpc(first, request), "cam-1", joining.folder, first)
    assert second.key.public_key() != first.key.public_key()
    with mutually_authenticated(second) as channel:
        grpc.channel_ready_future(channel).result(20)
    third = accept(
        renew_over_grpc(second, joining.folder.request("cam-1")), "cam-1", joining.folder, second
    )  # the first use of the second
    assert third.number == 3
    with pytest.raises(EnrolmentRefused):
        renew_over_grpc(first, request)  # the first is replaced by then


def test_a_device_waits_for_an_operator_who_binds_its_key(make: Make, operator: Any) -> None:
    waiting = make("cam-2")
    for _ in range(2):
        with pytest.raises(EnrolmentPending):
            waiting.enrol("")
    key = fingerprint(waiting.folder.key())
    assert operator.device("cam-2")["key_sha256"] == key
    with pytest.raises(IdentityTaken):
        make("cam-2", "another").enrol("")
    operator.accept("cam-2", key)
    assert waiting.enrol("").device == "cam-2"


def test_a_listed_key_joins_at_once(make: Make, operator: Any) -> None:
    listed = make("cam-3")
    operator.preauthorise([{"device": "cam-3", "key_sha256": fingerprint(listed.folder.key())}])
    assert listed.enrol("").device == "cam-3"


def test_each_refusal_comes_as_its_class(make: Make, operator: Any) -> None:
    token = operator.new_token("cam-4", 60)["token"]
    joined = make("cam-4")
    identity = joined.enrol(token)
    with pytest.raises(TokenUsed):
        make("cam-4", "another").enrol(token)
    with pytest.raises(TokenUnknown):
        make("cam-5").enrol(token)
    operator.suspend("cam-4")
    with pytest.raises(DeviceBarred):
        joined.enrol("", identity)


def test_a_proof_by_the_key_before_brings_a_new_certificate_and_another_key_brings_none(
    make: Make, operator: Any
) -> None:
    joined = make("cam-6")
    identity = joined.enrol(operator.new_token("cam-6", 60)["token"])
    thief = make("cam-6", "thief")
    with pytest.raises(IdentityTaken):
        thief.enrol("", replace(identity, key=thief.folder.key()))
    renewed = joined.enrol("", identity)
    assert renewed.key.public_key() != identity.key.public_key()
