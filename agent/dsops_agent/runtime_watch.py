"""Looks after one inference process: asks it how it is, and finds frames that do not come back, and silence.

It never waits for an answer: a frame that hangs with Python's lock in its hands silences the process too, and is found
all the same, by what the process wrote before.
"""

from contextlib import suppress
from dataclasses import dataclass

from dsops.errors import DsopsError, RuntimeCrashed
from dsops_agent.awake import Able, Awake
from dsops_agent.hangs import HangWatch, Silence, may_be_silent_s
from dsops_agent.runtime.channel import Asked, Header
from dsops_agent.runtime.flight import InFlight, read_flight
from dsops_agent.runtime_process import Launch, RuntimeProcess

HEALTH_S = 2.0
"""How often it is asked how it is."""
LOOK_S = 1.0
"""How often is looked for a frame that does not come back."""


@dataclass(frozen=True)
class Lost:
    """Why a process must be ended.

    Attributes:
        stuck: Frames that do not come back, longest first.
        why: In words, where it is not for a frame.
        is_silent: Whether it does not answer, so that it will not end in order either.
    """

    stuck: tuple[InFlight, ...] = ()
    why: str = ""
    is_silent: bool = False

    @property
    def is_hung(self) -> bool:
        """Whether only killing it ends it soon."""
        return bool(self.stuck) or self.is_silent


class RuntimeWatch:
    """The watch over one process. One thread.

    Args:
        process: It.
        launch: How it was started.
        now_s: This moment.
    """

    def __init__(self, process: RuntimeProcess, launch: Launch, now_s: float) -> None:
        self._process = process
        self._launch = launch
        self._awake = Awake(process.pid)
        self._hangs = HangWatch(launch.hang_s, now_s)
        self._looked_s = now_s
        self._next_check_s = now_s + HEALTH_S
        self._asked: Asked | None = None
        self._silence = Silence(now_s)

    def look(self, now_s: float, *, is_at_work: bool) -> Lost | Header | None:
        """Return why the process must be ended, or what it said of itself; None while there is nothing new.

        Args:
            now_s: This moment.
            is_at_work: Whether it was told to do something that may take long.
        """
        if now_s >= self._looked_s + LOOK_S and (lost := self._look(now_s, is_at_work=is_at_work)):
            return lost
        if self._asked is not None:
            return self._answer(now_s) if self._asked.wait(0.0) else None
        if now_s >= self._next_check_s:
            with suppress(RuntimeCrashed):  # whoever keeps it running sees that it is gone
                self._asked, self._silence = self._process.channel.ask("status"), Silence(now_s)
        return None

    def close(self) -> None:
        """Wait for no answer any more."""
        if self._asked is not None:
            self._asked.give_up()
            self._asked = None

    def _look(self, now_s: float, *, is_at_work: bool) -> Lost | None:
        launch, gap_s = self._launch, now_s - self._looked_s
        self._looked_s = now_s
        running = read_flight(launch.run_folder)
        is_late = self._asked is not None or any(one.for_s > LOOK_S for one in running)
        able = self._able(gap_s, is_late=is_late)
        if stuck := self._hangs.look(running, now_s, able.for_s):
            return Lost(stuck)
        if self._asked is None:
            return None
        silent_s = self._silence.look(now_s, able.at_least_s)
        most_s = may_be_silent_s(running, launch.hang_s, launch.silent_s, launch.quiet_s, is_at_work=is_at_work)
        if silent_s <= most_s:
            return None
        return Lost(why=f"it did not say how it is for {silent_s:.0f} s", is_silent=True)

    def _able(self, gap_s: float, *, is_late: bool) -> Able:
        """Return how long it was able to run since the look before; to find out takes time, and is seldom needed."""
        if is_late:
            return self._awake.look(gap_s)
        self._awake.pass_over()
        return Able(gap_s)

    def _answer(self, now_s: float) -> Lost | Header | None:
        assert self._asked is not None
        self._next_check_s = now_s + HEALTH_S
        try:
            return self._asked.answer()[0]
        except RuntimeCrashed:  # likewise
            return None
        except DsopsError as error:
            return Lost(why=str(error))
        finally:
            self.close()
