"""What the chain asks of a source, and what a source hands back."""

from typing import Protocol

from dsops.errors import SourceFailed
from dsops_agent.install.ports import Chunk


class Source(Protocol):
    """One place that chunks may come from. No method may block or raise, or call the delivery before it returns."""

    @property
    def name(self) -> str:
        """What people read in the log and in the status."""
        ...

    @property
    def is_near(self) -> bool:
        """Whether what it brings costs the device's link to the network nothing, so that no budget counts it."""
        ...

    def request(self, chunk: Chunk) -> None:
        """Bring a chunk, or say soon that it is lost. A source that is silent is passed over after a while."""
        ...

    def cancel(self, digest: str) -> None:
        """Stop bringing a chunk; one that was not asked for is no error."""
        ...


class Delivery(Protocol):
    """Takes what a source brings. May be called from any thread, but not with a lock held that ``Source`` needs."""

    def came(self, source: str, digest: str, data: bytes) -> None:
        """Take a chunk under the digest that it claims; it is not checked yet."""
        ...

    def lost(self, source: str, digests: tuple[str, ...], error: SourceFailed) -> None:
        """Take note of one failure, and of the chunks that do not come because of it, if there are any."""
        ...
