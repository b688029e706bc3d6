"""Brokers that are configured badly: what the controller finds out, says, and does about it. Real mosquitto."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from dsops.clock import SystemClock
from dsops.errors import BrokerUnreachable
from dsops.exits import Exit
from dsops_controller.cli.app import run
from dsops_controller.client import Client
from dsops_controller.fleet.ca import Authority
from dsops_controller.server.limits import Level, Limits, Measured, judge
from dsops_controller.server.probe import ProbeSettings, probe
from dsops_controller.server.tls import controller_credentials

pytestmark = pytest.mark.integration


def configure(site: Any, *changes: tuple[str, str]) -> None:
    """Replace lines of the broker's configuration; an empty line before stands for the file's end."""
    file = site.folder / "mosquitto" / "mosquitto.conf"
    text = file.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after) if before else f"{text}{after}\n"
    file.write_text(text)


def try_out(site: Any) -> tuple[Limits, Measured]:
    authority = Authority.load(site.folder / "ca", SystemClock())
    ca = controller_credentials(site.folder).ca
    return probe(ProbeSettings("127.0.0.1", site.ports.broker, ca, "dsops/v1", authority.issue_client))


def levels(site: Any) -> dict[str, Level]:
    return {finding.name: finding.level for finding in judge(*try_out(site)) if finding.level is not Level.OK}


def test_the_configuration_that_init_writes_is_found_good(site: Any, mosquitto: Any) -> None:
    limits, measured = try_out(site)
    assert (limits.max_packet_bytes, limits.receive_maximum, limits.max_qos) == (131_072, 20, 2)
    assert (measured.keeps, measured.deletes, measured.expires, measured.is_near) == (True, True, True, True)
    assert len(measured.round_trips_s) == 5
    wrong = {finding.name for finding in judge(limits, measured) if finding.level is not Level.OK}
    assert wrong <= {"delay"}, "a machine under load may be slow"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (("", "retain_available false"), {"retain": Level.ERROR}),
        (("max_packet_size 131072", "max_packet_size 20000"), {"packets": Level.ERROR}),
        (("", "max_qos 0"), {"qos": Level.ERROR}),
        (("max_inflight_messages 20", "max_inflight_messages 3"), {"window": Level.WARNING}),
    ],
)
def test_a_limit_that_hurts_is_found(
    site: Any, late_mosquitto: Any, change: tuple[str, str], found: dict[str, Level]
) -> None:
    configure(site, change, ("set_tcp_nodelay true", "set_tcp_nodelay false"))
    late_mosquitto.start()
    assert {name: level for name, level in levels(site).items() if name != "delay"} == found


def test_a_broker_that_forbids_the_trial_is_told_apart(site: Any, mosquitto: Any) -> None:
    access = site.folder / "mosquitto" / "acl"
    access.write_text(access.read_text().replace("topic readwrite dsops/v1/probe/#", "topic read dsops/v1/none"))
    mosquitto.kill()
    mosquitto.start()
    _, measured = try_out(site)
    assert "Not authorized" in measured.refusal
    assert levels(site) == {"trial": Level.WARNING}


def test_a_broker_that_is_not_there_is_said_so(site: Any) -> None:
    with pytest.raises(BrokerUnreachable, match=f"127.0.0.1:{site.ports.broker}"):
        try_out(site)


@pytest.mark.slow
def test_the_probe_leaves_the_controllers_session_alone_and_is_shown(
    site: Any, mosquitto: Any, operator: Client, eventually: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    eventually(lambda: operator.broker()["checked"] is not None, "the broker is tried out by itself")
    command = ["server", "broker", "--context", str(site.folder / "operator.toml")]
    assert run([*command, "--now", "-o", "json"]) == Exit.DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown["limits"]["max_packet_bytes"] == 131_072
    assert shown["level"] in ("ok", "warning")
    assert {finding["name"] for finding in shown["findings"]} >= {"qos", "packets", "retain", "trial", "expiry"}
    mqtt = operator.summary()["mqtt"]
    assert (mqtt["connected"], mqtt["connections"]) == (True, 1)


def test_what_is_wrong_ends_the_command_with_3_and_says_what_to_do(
    site: Any, late_mosquitto: Any, operator: Client, eventually: Callable[..., None],
    capsys: pytest.CaptureFixture[str], server: Any,
) -> None:  # fmt: skip
    configure(site, ("", "retain_available false"))
    late_mosquitto.start()
    eventually(lambda: operator.summary()["mqtt"]["connected"], "the controller connects nevertheless")
    command = ["server", "broker", "--now", "--context", str(site.folder / "operator.toml")]
    assert run(command) == Exit.AWAITED_FAILURE
    told = capsys.readouterr()
    assert "every agent pulls its chunks" in told.out
    assert "do: allow them (mosquitto: retain_available true)" in told.err
    eventually(lambda: "every agent pulls its chunks" in server.log.read_text(), "it is logged")
