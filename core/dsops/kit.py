"""A kit: a folder with everything that one device needs for an install without a network.

Every file goes by its SHA-256, as below the URL of a web server: bundles, chunk indexes, documents of trust, the head
of the trust metadata, the device's directive. ``kit.json`` says which is which. Nothing in it is believed because it
lies there: the device judges each part by the rules by which it judges what comes over the network.
"""

from pydantic import AwareDatetime, Field

from dsops.manifest import Frozen, Name, Sha256

KIT_FILE = "kit.json"
MAX_KIT_BYTES = 16 * 1024


class KitBundle(Frozen):
    """One bundle of a kit; of a model there may be one for its slot, and its challenger."""

    model: Name
    release: int = Field(ge=1)
    sha256: Sha256
    length_bytes: int = Field(gt=0)
    is_challenger: bool = False


class Kit(Frozen):
    """The file ``kit.json``.

    Attributes:
        device: Whom it is for.
        expires: After this moment the device refuses its head or its directive.
        head: SHA-256 of the head of the trust metadata.
        directive: SHA-256 of the directive's envelope.
        bundles: What the directive wants: at most 16 in slots, and as many challengers.
    """

    v: int = Field(default=1, ge=1, le=1)
    device: str = Field(max_length=64)
    expires: AwareDatetime
    head: Sha256
    directive: Sha256
    bundles: tuple[KitBundle, ...] = Field(min_length=1, max_length=32)
