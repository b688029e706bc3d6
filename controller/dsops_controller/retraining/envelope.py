"""A request as it is handed over: a CloudEvents 1.0 envelope in JSON (github.com/cloudevents/spec, JSON format 1.0)."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dsops import strictjson
from dsops.clock import utc_text
from dsops_controller.retraining.settings import Cause

TYPE = "retrain.requested"
CONTENT_TYPE = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class Subject:
    """What shall be trained anew, and with what.

    Attributes:
        model: Name.
        release: The newest release; 0 without one.
        bundle_sha256: Its bundle; empty without one.
        dataset: ``NAME/VERSION``; empty without one.
        dataset_digest: Its digest; empty without one.
    """

    model: str
    release: int = 0
    bundle_sha256: str = ""
    dataset: str = ""
    dataset_digest: str = ""


def request_id(cause: Cause, subject: Subject) -> str:
    """Return the idempotency key: the same cause, data set and bundle are the same request."""
    parts = (cause.value, subject.model, subject.dataset_digest, subject.bundle_sha256)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def envelope(
    fleet: str, cause: Cause, subject: Subject, about: Mapping[str, Any], created: datetime, note: str = ""
) -> bytes:
    """Return the envelope's bytes; ``about`` is the evidence."""
    return strictjson.dumps(
        {
            "specversion": "1.0",
            "id": request_id(cause, subject),
            "source": f"/dsops/{fleet}",
            "type": TYPE,
            "subject": subject.model,
            "time": utc_text(created),
            "datacontenttype": "application/json",
            "data": {
                "cause": cause.value,
                "model": subject.model,
                "release": subject.release,
                "bundle_sha256": subject.bundle_sha256,
                "dataset": subject.dataset,
                "dataset_digest": subject.dataset_digest,
                "evidence": dict(about),
                "note": note,
            },
        }
    )


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return what proves who sent a body, and when: HMAC-SHA-256 (RFC 2104) over ``TIMESTAMP.BODY``."""
    return "sha256=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
