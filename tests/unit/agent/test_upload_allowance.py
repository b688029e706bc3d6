"""What may be uploaded: rate, allowance per day, metered links."""

from dsops.clock import ManualClock
from dsops_agent.install.budget import Today
from dsops_agent.telemetry.allowance import Allowance, UploadRules, unlimited

MB = 1_000_000


def made(clock: ManualClock, rules: UploadRules, links: list[bool], kept: list[Today]) -> Allowance:
    spent = kept[-1] if kept else Today()
    return Allowance(rules, clock, lambda: links[-1], spent, kept.append)


def test_without_rules_everything_goes() -> None:
    allowance = unlimited(ManualClock())
    for kind in ("events", "telemetry", "samples"):
        allowance.spend(kind, 100 * MB)
        assert allowance.wait_s(kind, 100 * MB) == 0


def test_the_rate_holds_over_all_streams_and_events_never_wait() -> None:
    clock = ManualClock()
    allowance = made(clock, UploadRules(bytes_per_s=10_000), [False], [])
    sent = 0
    for _ in range(600):
        clock.advance(1.0)
        for kind in ("telemetry", "samples"):
            if allowance.wait_s(kind, 30_000) <= 0:
                allowance.spend(kind, 30_000)
                sent += 30_000
    assert 0.9 * 600 * 10_000 <= sent <= 600 * 10_000 + 512 * 1024
    allowance.spend("telemetry", 10 * MB)
    assert allowance.wait_s("telemetry", 1) > 0
    assert allowance.wait_s("events", 1000) == 0


def test_samples_leave_a_quarter_of_the_day_to_telemetry_and_a_restart_gives_nothing_back() -> None:
    clock, kept = ManualClock(), list[Today]()
    allowance = made(clock, UploadRules(bytes_per_day=4 * MB), [False], kept)
    for _ in range(3):
        assert allowance.wait_s("samples", MB) == 0
        allowance.spend("samples", MB)
    assert allowance.wait_s("samples", 1) > 0
    again = made(clock, UploadRules(bytes_per_day=4 * MB), [False], kept)
    assert again.wait_s("samples", 1) > 0
    assert again.wait_s("telemetry", MB) == 0
    again.spend("telemetry", MB)
    assert 0 < again.wait_s("telemetry", 1) <= 86_400
    clock.advance(86_400)
    assert again.wait_s("samples", MB) == 0


def test_over_a_metered_link_samples_wait_and_telemetry_goes_seldom() -> None:
    clock, links = ManualClock(), [True]
    allowance = made(clock, UploadRules(metered_every_s=600.0), links, [])
    assert allowance.wait_s("samples", 1) > 0
    assert allowance.wait_s("telemetry", 1) == 0
    allowance.spend("telemetry", 1)
    assert allowance.wait_s("telemetry", 1) == 600
    clock.advance(599)
    assert allowance.wait_s("telemetry", 1) == 1
    assert allowance.wait_s("events", 1) == 0
    links.append(False)
    clock.advance(5)
    assert not allowance.is_metered
    assert allowance.wait_s("samples", 1) == 0
    assert allowance.wait_s("telemetry", 1) == 0
