"""What a document is about: one variant of a build as one release, and the files of its bundle."""

from dataclasses import dataclass

from dsops.manifest import Blob
from dsops_controller.build.bundles.payload import Payload
from dsops_controller.build.record import PAYLOAD, BuildRecord, VariantRecord


@dataclass(frozen=True)
class Subject:
    """One bundle in the making.

    Attributes:
        record: The build.
        variant: The variant that is packed.
        release: The bundle's number within its model.
        payload: The structure of the payload.
        blobs: The bundle's files so far.
        model_card: The model card's text, if the recipe gave one.
    """

    record: BuildRecord
    variant: VariantRecord
    release: int
    payload: Payload
    blobs: tuple[Blob, ...]
    model_card: str = ""

    @property
    def payload_blob(self) -> Blob:
        """The payload's entry."""
        return next(blob for blob in self.blobs if blob.name == PAYLOAD)
