"""Looks at the fleet, notes what is wrong, and hands notices over. Each step can be repeated."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from dsops.clock import Clock
from dsops.errors import DsopsError
from dsops_controller.alerts.alerts import Alerts
from dsops_controller.alerts.deliveries import Deliveries
from dsops_controller.alerts.notices import Claimed, Pace
from dsops_controller.alerts.rules import Figures, findings
from dsops_controller.alerts.settings import AlertSettings, Kind
from dsops_controller.bundles import Bundles
from dsops_controller.dataops.drift.audited_errors import Verdict
from dsops_controller.dataops.drift.standing import ACCEPTED, Beat, Standings
from dsops_controller.dataops.drift.tally import DriftTally, tally
from dsops_controller.dataops.labels.audits import AUDITED, of_labels
from dsops_controller.dataops.labels.labels import Labels
from dsops_controller.db import alert_tables, tables
from dsops_controller.db.database import Database
from dsops_controller.db.sums import whole_sum
from dsops_controller.db.times import from_ms, to_ms
from dsops_controller.db.upsert import upsert
from dsops_controller.retraining.adapters import NotTaken
from dsops_controller.retraining.settings import Webhook

log = logging.getLogger(__name__)

AUDIT_S = 600.0
"""Seconds between two looks at labels: there may be many, and they come by hand."""
_TICK_S = 1.0
_MOST = 2**62
"""Records that a device can have dropped; a database holds them."""
Post = Callable[[Webhook, str, bytes], None]
"""Hands one notice over, by its id; raises NotTaken."""


@dataclass(frozen=True)
class Watched:
    """What alerts look at."""

    db: Database
    bundles: Bundles
    labels: Labels


class Watch:
    """Opens and resolves alerts, and tells of them.

    Args:
        watched: What is looked at.
        alerts: Where alerts are kept.
        deliveries: Where their notices are.
        settings: Of what to tell, and whom.
        post: Hands one notice over.
        clock: Tells the time.
    """

    def __init__(
        self,
        watched: Watched,
        alerts: Alerts,
        deliveries: Deliveries,
        settings: AlertSettings,
        post: Post,
        clock: Clock,
    ) -> None:
        self._watched = watched
        self._standings = Standings(watched.db)
        self._settings = settings
        self._post = post
        self._clock = clock
        self._audits: dict[str, Verdict] = {}
        self._audited_s: float | None = None
        self._wake = threading.Event()
        self._deliveries = deliveries
        self.alerts = alerts

    def run(self, stop: threading.Event) -> None:
        """Look and hand over until ``stop`` is set."""
        looked_s = -1e9
        while not stop.is_set():
            try:
                if self._clock.monotonic_s() - looked_s >= self._settings.look_s:
                    looked_s = self._clock.monotonic_s()
                    self.look()
                self.hand_over(stop)
            except DsopsError as error:
                log.warning("alerts wait: %s", error)
            self._wake.wait(min(_TICK_S, self._settings.look_s))
            self._wake.clear()

    def wake(self) -> None:
        """Have the loop hand over now."""
        self._wake.set()

    def look(self) -> None:
        """Note what is wrong now.

        Raises:
            StateDamaged: The database cannot be read.
        """
        settings = self._settings
        figures, unseen = self._figures()
        found, clear = findings(figures, settings, self._clock.now(), unseen), timedelta(seconds=settings.clear_s)
        opened, resolved = self.alerts.note(found, list(settings.webhook), clear)
        if opened or resolved:
            log.info("alerts: %d opened, %d resolved", opened, resolved)
        self.alerts.forget(timedelta(days=settings.keep_days))

    def hand_over(self, stop: threading.Event | None = None) -> None:
        """Hand over every notice that is due."""
        settings = self._settings
        spans = {name: hook.span_s for name, hook in settings.webhook.items()}
        pace = Pace(settings.notices, settings.notices_every_s, settings.named, settings.notices_in_all)
        while not (stop and stop.is_set()) and (claimed := self._deliveries.claim(spans, pace)) is not None:
            try:
                self._hand(claimed)
            except NotTaken as error:
                log.warning("notice %s was not taken by %s: %s", claimed.id, claimed.hook, error.why)
                self._deliveries.not_delivered(
                    claimed, error.why, is_final=error.is_final, wait_s=error.wait_s, most=settings.attempts
                )
            else:
                self._deliveries.delivered(claimed)

    def _hand(self, claimed: Claimed) -> None:
        hook = self._settings.webhook.get(claimed.hook)
        if hook is None:
            raise NotTaken(f"controller.toml has no webhook {claimed.hook} any more", is_final=True)
        self._post(hook, claimed.id, claimed.body)

    def _figures(self) -> tuple[Figures, frozenset[Kind]]:
        """Return what is known now, and the kinds that could not be looked at: the others are not silenced."""
        wanted = frozenset(self._settings.kinds)
        found: dict[str, Any] = {}
        unseen: frozenset[Kind] = frozenset()
        for name, kinds, read in self._readers():
            if not kinds & wanted:
                continue
            try:
                found[name] = read()
            except Exception as error:  # noqa: BLE001 - whatever it is, the other kinds are looked at
                unseen |= kinds
                log.warning("alerts of %s wait: %s", ", ".join(sorted(kinds)), error)
        return Figures(**found), unseen

    def _readers(self) -> Sequence[tuple[str, frozenset[Kind], Callable[[], Any]]]:
        """Return which of the figures are read for which kinds, and how."""
        return (
            ("standings", frozenset({Kind.DRIFT, Kind.SKEW}), self._standings.alarming),
            ("drift", frozenset({Kind.FLEET_DRIFT}), self._tally),
            ("beats", frozenset({Kind.SILENT}), self._late),
            ("lost", frozenset({Kind.LOSSES}), self._lost),
            ("audits", frozenset({Kind.AUDITED_ERROR}), self._verdicts),
        )

    def _tally(self) -> DriftTally:
        with self._watched.db.read() as connection:
            return tally(connection, self._settings.fdr, self._clock.now())

    def _late(self) -> Sequence[Beat]:
        """Return the newest heartbeats of accepted devices that are older than any device may be silent."""
        late = self._standings.beats(before=self._clock.now() - timedelta(seconds=self._settings.silent_s))
        with self._watched.db.read() as connection:
            part = frozenset(connection.execute(ACCEPTED).scalars()) if late else ()
        return [beat for beat in late if beat.device in part]

    def _lost(self) -> Mapping[str, tuple[int, datetime]]:
        """Return what accepted devices dropped lately, and remember it."""
        now, loss = self._clock.now(), tables.stream_loss.c
        begun_ms = to_ms(now - timedelta(seconds=self._settings.losses_s))
        with self._watched.db.read() as connection:
            of_fleet = select(loss.device, whole_sum(loss.count).label("total")).where(loss.device.in_(ACCEPTED))
            sums = connection.execute(of_fleet.group_by(loss.device)).all()
            known = {row.device: row for row in connection.execute(select(alert_tables.alert_loss))}
        found: dict[str, tuple[int, datetime]] = {}
        grown: list[dict[str, object]] = []
        for device, dropped_in_all in sums:
            total = min(int(dropped_in_all), _MOST)
            row = known.get(device)
            dropped, before, grew_ms = (row.dropped, row.before, row.grew_ms) if row is not None else (0, 0, 0)
            if total - dropped >= self._settings.losses:
                before = dropped if grew_ms < begun_ms else before
                dropped, grew_ms = total, to_ms(now)
                grown.append({"device": device, "dropped": dropped, "before": before, "grew_ms": grew_ms})
            if grew_ms >= begun_ms:
                found[device] = (dropped - before, from_ms(grew_ms))
        if grown:
            with self._watched.db.write() as connection:
                connection.execute(upsert(connection.dialect.name, alert_tables.alert_loss), grown)
        return found

    def _verdicts(self) -> Mapping[str, Verdict]:
        now_s = self._clock.monotonic_s()
        if self._audited_s is None or now_s - self._audited_s >= AUDIT_S:
            self._audited_s = now_s
            found = {model: self._verdict(model) for model in self._audited_models()}
            self._audits = {model: verdict for model, verdict in found.items() if verdict is not None}
        return self._audits

    def _audited_models(self) -> list[str]:
        column = tables.labelled_sample.c
        with self._watched.db.read() as connection:
            random = select(column.model).where(column.reason == AUDITED).distinct().order_by(column.model)
            return list(connection.execute(random).scalars())

    def _verdict(self, model: str) -> Verdict | None:
        newest = next(iter(self._watched.bundles.list(model)), None)
        accuracy = None if newest is None else newest.manifest.metrics.get("accuracy")
        if newest is None or accuracy is None:
            return None
        return of_labels(self._watched.labels.current(model), newest.release, accuracy, self._settings.error_margin)
