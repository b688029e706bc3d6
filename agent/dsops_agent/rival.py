"""What the runtime of the champions is told of a challenger."""

from pydantic import Field

from dsops.manifest import Frozen, Sha256
from dsops.modes import Mode


class Rival(Frozen):
    """A challenger that is ready.

    Attributes:
        socket: Where its process answers.
        pid: That process.
        digest: Its bundle.
        release: Its release.
        mode: What it is asked.
        share: Of the requests or of the keys.
        cpu_share: Time of a processor that a shadow may take, as a share of one core.
        salt: Of the split.
    """

    socket: str = Field(min_length=1)
    pid: int = Field(ge=1)
    digest: Sha256
    release: int = Field(ge=1)
    mode: Mode
    share: float = Field(gt=0, le=1)
    cpu_share: float = Field(gt=0, le=1)
    salt: str = Field(max_length=64)
