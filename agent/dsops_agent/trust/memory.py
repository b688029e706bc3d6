"""``floors.json``: versions and time that must survive the metadata itself."""

from pathlib import Path

from pydantic import Field, ValidationError

from dsops import strictjson
from dsops.errors import StateDamaged
from dsops.files import write_atomically
from dsops.manifest import Frozen, first_problem
from dsops_agent.trust.floors import Floor
from dsops_agent.trust.trusted_time import TimeRecord


class Memory(Frozen):
    """The whole file."""

    roles: dict[str, Floor] = Field(default={})
    time: TimeRecord | None = None


class MemoryFile:
    """Reads the file once and writes it when something changed.

    A file that cannot be read raises nothing here, so that an agent starts and what it runs keeps running; but nothing
    may be believed without it, which :meth:`require` says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._damage = ""
        self.memory = Memory()
        try:
            self.memory = Memory.model_validate(strictjson.loads(path.read_bytes()))
        except FileNotFoundError:
            return
        except ValidationError as error:
            self._damage = first_problem(error)
        except (OSError, strictjson.JsonRefused) as error:
            self._damage = str(error)

    def require(self) -> None:
        """Check that the file could be read.

        Raises:
            StateDamaged: It could not.
        """
        if self._damage:
            raise StateDamaged(f"{self._path.name} cannot be read", why=self._damage)

    def remember(self, memory: Memory) -> None:
        """Make it durable, if it differs from what is.

        Raises:
            NoSpace: The disk is full.
            OSError: The disk fails.
        """
        if memory != self.memory:
            write_atomically(self._path, strictjson.dumps(memory.model_dump(mode="json")))
            self.memory = memory
