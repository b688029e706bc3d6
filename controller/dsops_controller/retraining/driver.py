"""Looks at models, asks for those that should be trained anew, and hands requests over. Each step can be repeated."""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sqlalchemy import Connection, func, select

from dsops.clock import Clock
from dsops.errors import Conflict, DsopsError, NotFound
from dsops.manifest import Manifest
from dsops_controller import audit
from dsops_controller.dataops.datasets.dataset_rows import DatasetRecord
from dsops_controller.dataops.datasets.datasets import Datasets
from dsops_controller.dataops.drift.audited_errors import Verdict
from dsops_controller.dataops.drift.fleet_drift import drifted
from dsops_controller.dataops.drift.standing import Standings
from dsops_controller.dataops.labels.audits import of_labels
from dsops_controller.dataops.labels.labels import Labels, count_since
from dsops_controller.db import tables
from dsops_controller.db.database import Database
from dsops_controller.db.rows import AnyRow
from dsops_controller.db.times import from_ms
from dsops_controller.retraining.adapters import Deliver, NotTaken
from dsops_controller.retraining.envelope import Subject, envelope
from dsops_controller.retraining.requests import Requests, RequestState, RetrainingRequest
from dsops_controller.retraining.rules import Figures, decide
from dsops_controller.retraining.settings import Cause, Command, Drop, RetrainingSettings, Webhook

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What retraining looks at."""

    db: Database
    datasets: Datasets
    labels: Labels


class Retraining:
    """Asks for retraining, by itself and on somebody's word.

    Args:
        fleet: Name of the fleet.
        data: What is looked at.
        settings: When to ask, and whom.
        deliver: Hands one request over.
        clock: Tells the time.
    """

    def __init__(self, fleet: str, data: Data, settings: RetrainingSettings, deliver: Deliver, clock: Clock) -> None:
        self._fleet = fleet
        self._data = data
        self._settings = settings
        self._deliver = deliver
        self._clock = clock
        self._wake = threading.Event()
        self._standings = Standings(data.db)
        self.requests = Requests(data.db, clock)

    def request(self, model: str, dataset: str = "", note: str = "", actor: str = audit.SYSTEM) -> RetrainingRequest:
        """Ask for a model to be trained anew; the same data set and bundle once more are the same request.

        Args:
            model: Which.
            dataset: ``NAME/VERSION``; empty takes the newest data set of the model.
            note: For whoever trains.
            actor: Who asks.

        Raises:
            NotFound: There is no such data set, or nothing is known of the model.
            Conflict: Another request of the model is open, or the same one has ended.
        """
        subject = self._subject(model, dataset)
        if not subject.bundle_sha256 and not subject.dataset:
            raise NotFound(f"nothing is known of {model}", why="it has no bundle and no data set here")
        made, _ = self.requests.add(Cause.MANUAL, subject, {}, list(self._settings.adapters), note=note, actor=actor)
        if made.state is not RequestState.OPEN:
            raise Conflict(
                f"the same was asked for {model} before",
                why=f"request {made.id[:12]} has this data set and bundle, and is {made.state}",
                hint=f"make a new version of the data set, or: dsops retrain retry {made.id[:12]}",
            )
        self._wake.set()
        return made

    def run(self, stop: threading.Event) -> None:
        """Look and hand over until ``stop`` is set."""
        while not stop.is_set():
            self._wake.clear()  # before the look: who wakes later is not forgotten
            try:
                self.look()
                self.hand_over()
            except DsopsError as error:
                log.warning("retraining waits: %s", error)
            self._pause(stop)

    def wake(self) -> None:
        """Have the loop look now."""
        self._wake.set()

    def look(self) -> None:
        """Settle what has ended, and ask for the models that should be trained anew."""
        self.requests.settle(self._settings.open_days)
        for model in self._models():
            wanted = decide(self._figures(model), self._settings, self._clock.now())
            if wanted is None:
                continue
            subject = self._subject(model, self._renewed(model))
            try:
                _, is_new = self.requests.add(wanted.cause, subject, wanted.evidence, list(self._settings.adapters))
            except Conflict:  # another controller was first
                continue
            if is_new:
                log.info("%s should be trained anew: %s", model, wanted.cause)

    def hand_over(self) -> None:
        """Hand over what is due."""
        spans = {name: adapter.span_s for name, adapter in self._settings.adapters.items()}
        while (claimed := self.requests.claim(spans)) is not None:
            request, name = claimed
            try:
                self._deliver(self._adapter(name), request, self._body(request))
            except NotTaken as error:
                log.warning("request %s was not taken by %s: %s", request[:12], name, error.why)
                self.requests.not_delivered(
                    request,
                    name,
                    error.why,
                    is_final=error.is_final,
                    wait_s=error.wait_s,
                    most=self._settings.attempts,
                )
            else:
                self.requests.delivered(request, name)

    def _adapter(self, name: str) -> Webhook | Command | Drop:
        adapter = self._settings.adapters.get(name)
        if adapter is None:
            raise NotTaken(f"controller.toml has no adapter {name} any more", is_final=True)
        return adapter

    def _pause(self, stop: threading.Event) -> None:
        until = self._clock.monotonic_s() + self._settings.look_s
        while (
            not stop.is_set()
            and self._clock.monotonic_s() < until
            and not self._wake.wait(min(1.0, self._settings.look_s))
        ):
            continue

    def _body(self, request: str) -> bytes:
        found = self.requests.get(request)
        return envelope(self._fleet, found.cause, found.subject, found.evidence, found.created, found.note)

    def _models(self) -> Iterable[str]:
        if self._settings.models or not self._settings.causes:
            return self._settings.models if self._settings.causes else ()
        with self._data.db.read() as connection:
            labelled = connection.execute(select(tables.labelled_sample.c.model).distinct()).scalars().all()
            pushed = connection.execute(select(tables.bundle.c.model).distinct()).scalars().all()
        return sorted({*labelled, *pushed})

    def _figures(self, model: str) -> Figures:
        with self._data.db.read() as connection:
            bundle = _newest_bundle(connection, model)
            since = _newest_dataset_ms(connection, model)
            asked, is_open = _asked(connection, model)
            new_labels = count_since(connection, model, since)
        # Drift of a release before is what the newest was made against.
        now = self._clock.now()
        lately = [one for one in self._standings.newest(model) if one.counts(now)]
        standings = [one for one in lately if bundle is None or one.release == bundle.release]
        return Figures(
            drifted=drifted({one.device: one.log_e for one in standings}, self._settings.fdr),
            watched=len(standings),
            audit=self._audit(model, bundle),
            new_labels=new_labels,
            asked=None if asked is None else from_ms(asked),
            released=None if bundle is None else from_ms(bundle.pushed_ms),
            is_open=is_open,
        )

    def _audit(self, model: str, bundle: AnyRow | None) -> Verdict | None:
        accuracy = None if bundle is None else Manifest.decode(bundle.manifest.encode()).metrics.get("accuracy")
        if bundle is None or accuracy is None:
            return None
        return of_labels(self._data.labels.current(model), bundle.release, accuracy, self._settings.error_margin)

    def _renewed(self, model: str) -> str:
        """Return the newest data set of a model, made anew by its own query and policy of what is labelled now."""
        newest = next((one for one in self._by_age() if one.model == model), None)
        if newest is None:
            return ""
        try:
            return self._data.datasets.renew(newest.name).reference
        except DsopsError as error:
            log.warning("data set %s cannot be made anew: %s", newest.name, error)
            return newest.reference

    def _subject(self, model: str, dataset: str) -> Subject:
        with self._data.db.read() as connection:
            bundle = _newest_bundle(connection, model)
        subject = Subject(model)
        if bundle is not None:
            subject = replace(subject, release=bundle.release, bundle_sha256=bundle.sha256)
        found = self._data.datasets.named(dataset) if dataset else None
        found = found or next((one for one in self._by_age() if one.model == model), None)
        if found is None:
            return subject
        if found.model != model:
            raise Conflict(f"data set {found.reference} is of {found.model}, not of {model}")
        return replace(subject, dataset=found.reference, dataset_digest=found.digest)

    def _by_age(self) -> list[DatasetRecord]:
        return sorted(self._data.datasets.list(), key=lambda one: one.created, reverse=True)


def _newest_bundle(connection: Connection, model: str) -> AnyRow | None:
    column = tables.bundle.c
    query = select(tables.bundle).where(column.model == model).order_by(column.release.desc(), column.variant).limit(1)
    return connection.execute(query).one_or_none()


def _newest_dataset_ms(connection: Connection, model: str) -> int:
    column = tables.dataset.c
    query = select(func.max(column.created_ms)).where(column.model == model)
    return int(connection.execute(query).scalar_one() or 0)


def _asked(connection: Connection, model: str) -> tuple[int | None, bool]:
    column = tables.retraining.c
    newest = connection.execute(select(func.max(column.created_ms)).where(column.model == model)).scalar_one()
    is_open = (column.model == model) & (column.state == RequestState.OPEN)
    return newest, connection.execute(select(column.id).where(is_open)).first() is not None
