"""What each model's newest activation is measured by, kept in the journal: a restart on probation loses none of it."""

from dataclasses import dataclass

from pydantic import ValidationError

from dsops.manifest import Frozen, Sha256
from dsops_agent.install.journal import Journal
from dsops_agent.install.ports import Suspect
from dsops_agent.runtime.figures import Figures


class Trial(Frozen):
    """One activation: the bundle, its number among all activations, and what the release before it did.

    ``watched_s`` is how long the bundle answered on probation, as far as that was kept; ``strikes`` is how many the
    ends of the inference process gave it since its activation, however long ago.
    """

    digest: Sha256
    number: int
    baseline: Figures | None = None
    watched_s: float = 0.0
    strikes: int = 0


@dataclass(frozen=True)
class Trials:
    """The newest activation of every model."""

    journal: Journal

    def begin(self, model: str, digest: str, baseline: Figures | None) -> None:
        """Keep that a bundle is activated in the place of one that did ``baseline``."""
        with self.journal.transaction():
            trial = Trial(digest=digest, number=self.journal.next("trial"), baseline=baseline)
            self.journal.set(_name(model), trial.model_dump_json())

    def watched(self, model: str, digest: str) -> float:
        """Return how long a bundle answered on probation before the control process started, in seconds."""
        trial = self.of(model, digest)
        return trial.watched_s if trial else 0.0

    def keep_watched(self, model: str, digest: str, watched_s: float) -> None:
        """Keep how long a bundle has answered on probation."""
        trial = self.of(model, digest)
        if trial and trial.watched_s != watched_s:
            self.journal.set(_name(model), trial.model_copy(update={"watched_s": watched_s}).model_dump_json())

    def strike(self, suspect: Suspect, strikes: int) -> None:
        """Keep that a bundle on trial got strikes."""
        trial = self.of(suspect.model, suspect.digest)
        if trial:
            struck = trial.model_copy(update={"strikes": trial.strikes + strikes})
            self.journal.set(_name(suspect.model), struck.model_dump_json())

    def strikes(self, suspect: Suspect) -> int:
        """Return how many strikes a bundle got since its activation."""
        trial = self.of(suspect.model, suspect.digest)
        return trial.strikes if trial else 0

    def end(self, model: str) -> None:
        """Forget it: what is served now was there before."""
        if self.journal.get(_name(model)):
            self.journal.set(_name(model), "")

    def of(self, model: str, digest: str) -> Trial | None:
        """Return the trial of a bundle, if its activation was the newest of the model."""
        text = self.journal.get(_name(model))
        try:
            trial = Trial.model_validate_json(text) if text else None
        except ValidationError:  # of another version of the agent: there is nothing to measure by then
            return None
        return trial if trial and trial.digest == digest else None

    def newness(self, suspect: Suspect) -> int:
        """Return the number of a bundle's activation; 0 of one that was there before the newest."""
        trial = self.of(suspect.model, suspect.digest)
        return trial.number if trial else 0


def _name(model: str) -> str:
    return f"trial of {model}"
