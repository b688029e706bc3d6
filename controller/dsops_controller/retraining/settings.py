"""What of ``controller.toml`` is about retraining: when to ask for it, and whom."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from dsops.manifest import Frozen

AdapterName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class Cause(StrEnum):
    """Why a model should be trained anew."""

    DRIFT = "drift"
    """Inputs have changed on enough devices, by the test over the whole fleet."""
    AUDITED_ERROR = "audited-error"
    """Labels of samples that were kept at random show more errors than the model had when it was built."""
    LABEL_COUNT = "label-count"
    """Enough samples were labelled since the newest data set."""
    SCHEDULE = "schedule"
    """So much time has passed."""
    MANUAL = "manual"
    """Somebody asked."""


class Webhook(Frozen):
    """Posts a request to an address, signed.

    Attributes:
        url: ``https://``; ``http://`` only to this machine.
        secret_file: File with the shared secret, at least 16 characters; relative to the server's folder.
        timeout_s: How long an answer may take.
    """

    url: str = Field(pattern=r"^(https://[^\s/?#]+|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?)(/\S*)?$")
    secret_file: str = Field(min_length=1)
    timeout_s: float = Field(default=10.0, gt=0, le=300)

    @property
    def span_s(self) -> float:
        """How long handing over may take: connecting, sending and waiting may each take so long."""
        return 4 * self.timeout_s


class Command(Frozen):
    """Runs a program with the request on its standard input; exit code 0 means that it was taken.

    Attributes:
        arguments: The program and its arguments; no shell looks at them.
        timeout_s: After so long it is ended, and tried again.
    """

    arguments: tuple[str, ...] = Field(min_length=1, max_length=100)
    timeout_s: float = Field(default=60.0, gt=0, le=3600)

    @property
    def span_s(self) -> float:
        """How long handing over may take."""
        return self.timeout_s


class Drop(Frozen):
    """Writes a request as a file, for whoever watches the folder: ``ID.json``, whole or not at all.

    Attributes:
        folder: An existing folder; relative to the server's folder.
    """

    folder: str = Field(min_length=1)

    @property
    def span_s(self) -> float:
        """How long handing over may take."""
        return 60.0


class RetrainingSettings(Frozen):
    """When to ask, and whom.

    Attributes:
        causes: What may ask by itself; none: only people ask.
        models: Of which models; empty means of all that have labels.
        look_s: Seconds between two looks.
        cooldown_h: Hours after a request in which the same model is not asked for by itself again.
        open_days: A request that no new release has answered for so long is expired.
        drift_devices: So many devices must have drifted, at least.
        drift_share: And this share of those that watch the model.
        fdr: Of the devices that are counted as drifted, this share at most is wrong, on average.
        new_labels: So many samples must be labelled since the newest data set.
        schedule_days: So many days after the last request or release; 0 asks never.
        error_margin: By how much the audited error may be above that of the build.
        attempts: How often an adapter is tried before it is given up.
        webhook: Addresses by a name for each.
        command: Programs by a name for each.
        file: Folders by a name for each.
    """

    causes: tuple[Cause, ...] = (Cause.DRIFT, Cause.AUDITED_ERROR, Cause.LABEL_COUNT, Cause.SCHEDULE)
    models: tuple[str, ...] = ()
    look_s: float = Field(default=60.0, gt=0, le=86_400)
    cooldown_h: float = Field(default=24.0, ge=0, le=8760)
    open_days: float = Field(default=14.0, gt=0, le=365)
    drift_devices: int = Field(default=3, ge=1)
    drift_share: float = Field(default=0.02, ge=0, le=1)
    fdr: float = Field(default=0.05, gt=0, lt=1)
    new_labels: int = Field(default=200, ge=1)
    schedule_days: float = Field(default=0.0, ge=0, le=3650)
    error_margin: float = Field(default=0.01, gt=0, lt=1)
    attempts: int = Field(default=10, ge=1, le=100)
    webhook: dict[AdapterName, Webhook] = Field(default={}, max_length=16)
    command: dict[AdapterName, Command] = Field(default={}, max_length=16)
    file: dict[AdapterName, Drop] = Field(default={}, max_length=16)

    @model_validator(mode="after")
    def _names_differ(self) -> "RetrainingSettings":
        names = [*self.webhook, *self.command, *self.file]
        if len(set(names)) != len(names):
            raise ValueError("two adapters have one name")
        return self

    @property
    def adapters(self) -> dict[str, Webhook | Command | Drop]:
        """Every adapter by its name."""
        return {**self.webhook, **self.command, **self.file}
