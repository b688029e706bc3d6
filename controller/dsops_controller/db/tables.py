"""Tables of the state database; those of alerts are in :mod:`dsops_controller.db.alert_tables`.

Times are epoch milliseconds UTC (``_ms``); JSON columns hold canonical text.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

BIG = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only by INTEGER

device = Table(
    "device",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),  # dsops.states.Device
    Column("created_ms", BIG, nullable=False),
    Column("serial", String(64)),  # newest certificate, hex
    Column("public_key", Text),  # PEM, of the newest certificate; of the request while the device is pending
    Column("inventory", Text, nullable=False, default="{}"),
    Column("tags", Text, nullable=False, default="{}"),
    Column("online", Boolean, nullable=False, default=False),
    Column("boot_id", String(64)),
    Column("conn_seq", BIG, nullable=False, default=0),
    Column("seen_ms", BIG),
    Column("content_public_key", LargeBinary),  # X25519, 32 bytes; content keys are wrapped to it
    Column("asked_ms", BIG),  # when a pending device asked last
    Column("origin", String(64), nullable=False, server_default=""),  # address that a stranger came from
    Index("device_by_state", "state"),
)

certificate = Table(
    "certificate",
    metadata,
    Column("serial", String(64), primary_key=True),  # hex
    Column("device", String(64), ForeignKey("device.id"), nullable=False),
    Column("public_key", Text, nullable=False),  # PEM; verifies reports while the certificate counts
    Column("issued_ms", BIG, nullable=False),
    Column("expires_ms", BIG, nullable=False),
    Column("used_ms", BIG),  # first seen in use
    Column("revoked_ms", BIG),
    Column("reason", String(32), nullable=False, server_default=""),  # why it was revoked
    Index("certificate_by_device", "device"),
    Index("certificate_by_revocation", "revoked_ms"),
)

preauthorised = Table(
    "preauthorised",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("key_sha256", String(64), nullable=False),  # of the key's DER SubjectPublicKeyInfo
    Column("created_ms", BIG, nullable=False),
    Column("used_ms", BIG),
)

content_key = Table(
    "content_key",
    metadata,
    Column("bundle_sha256", String(64), primary_key=True),
    Column("key", LargeBinary, nullable=False),  # AES-256 key of an encrypted payload
    Column("created_ms", BIG, nullable=False),
)

enrolment_token = Table(
    "enrolment_token",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("device", String(64), nullable=False),
    Column("created_ms", BIG, nullable=False),
    Column("expires_ms", BIG, nullable=False),
    Column("used_ms", BIG),
)

bundle = Table(
    "bundle",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("variant", String(32), nullable=False),
    Column("path", String(160), nullable=False, unique=True),  # name of the TUF target
    Column("length_bytes", BIG, nullable=False),
    Column("index_sha256", String(64), nullable=False),
    Column("manifest", Text, nullable=False),
    Column("pushed_ms", BIG, nullable=False),
)

rollout = Table(
    "rollout",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("bundle_sha256", String(64), ForeignKey("bundle.sha256"), nullable=False),
    Column("state", String(24), nullable=False),  # dsops.states.Rollout
    Column("reason", Text, nullable=False, default=""),
    Column("plan", Text, nullable=False),
    Column("wave", Integer, nullable=False, default=0),  # index of the running wave
    Column("created_ms", BIG, nullable=False),
    Column("updated_ms", BIG, nullable=False),
)

deployment = Table(
    "deployment",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("rollout", String(32), ForeignKey("rollout.id"), nullable=False),
    Column("device", String(64), ForeignKey("device.id"), nullable=False),
    Column("wave", Integer, nullable=False),
    Column("state", String(24), nullable=False),  # dsops.states.Deployment
    Column("step", String(24), nullable=False, default=""),  # dsops.states.Install, as reported
    Column("progress", Float, nullable=False, default=0.0),
    Column("code", String(64), nullable=False, default=""),
    Column("message", Text, nullable=False, default=""),
    Column("started_ms", BIG),
    Column("ended_ms", BIG),
    Column("waiting", String(200), nullable=False, server_default=""),  # for what, as reported
    Column("waiting_since_ms", BIG),  # since when a connected device has waited
    Column("waited_ms", BIG, nullable=False, server_default="0"),  # how long it waited before that
    Column("counter", BIG, nullable=False, server_default="0"),  # of the report that was taken in last
    Index("deployment_by_rollout", "rollout", "wave"),
    Index("deployment_by_device", "device"),
)

desired = Table(
    "desired",
    metadata,
    Column("device", String(64), ForeignKey("device.id"), primary_key=True),
    Column("seq", BIG, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("slots", Text, nullable=False),  # model -> DesiredSlot, what the envelope says
    Column("updated_ms", BIG, nullable=False),
)

observed = Table(
    "observed",
    metadata,
    Column("device", String(64), ForeignKey("device.id"), primary_key=True),
    Column("counter", BIG, nullable=False),
    Column("seq", BIG, nullable=False),
    Column("report", Text, nullable=False),  # dsops.messages.Observed, verified
    Column("received_ms", BIG, nullable=False),
    Column("digest", String(64), nullable=False, server_default=""),  # of the report's payload; the next one names it
)

delta = Table(
    "delta",
    metadata,
    Column("base_sha256", String(64), primary_key=True),
    Column("target_sha256", String(64), primary_key=True),
    Column("sha256", String(64)),  # of the delta's file; null when it is not offered
    Column("length_bytes", BIG, nullable=False),
    Column("index_sha256", String(64)),
    Column("created_ms", BIG, nullable=False),
    Column("withheld", String(100), nullable=False, server_default=""),  # why it is not offered
)

seeded = Table(
    "seeded",
    metadata,
    Column("sha256", String(64), primary_key=True),  # of a file whose chunks were offered to the broker
    Column("length_bytes", BIG, nullable=False),
    Column("seeded_ms", BIG, nullable=False),  # when that was done last
)

site = Table(
    "site",
    metadata,
    Column("name", String(64), primary_key=True),  # as devices name it in their inventory
    Column("bytes_per_s", BIG, nullable=False, server_default="0"),  # 0: no limit
    Column("bytes_per_day", BIG, nullable=False, server_default="0"),
    Column("devices", BIG, nullable=False, server_default="0"),  # among so many the budget is shared
    Column("updated_ms", BIG, nullable=False),
)

pardon = Table(
    "pardon",
    metadata,
    Column("device", String(64), ForeignKey("device.id"), primary_key=True),
    Column("sha256", String(64), primary_key=True),  # a quarantined bundle that the device shall try again
    Column("created_ms", BIG, nullable=False),
)

sample_request = Table(
    "sample_request",
    metadata,
    Column("id", String(32), primary_key=True),  # one for all devices that were asked together
    Column("device", String(64), ForeignKey("device.id"), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("count", BIG, nullable=False),
    Column("created_ms", BIG, nullable=False),
    Column("until_ms", BIG, nullable=False),
)

challenger = Table(
    "challenger",
    metadata,
    Column("device", String(64), ForeignKey("device.id"), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("bundle_sha256", String(64), ForeignKey("bundle.sha256"), nullable=False),
    Column("deployment", String(32), nullable=False),  # one for all devices that were given it together
    Column("mode", String(8), nullable=False),  # dsops.modes.Mode
    Column("share", Float, nullable=False),
    Column("cpu_share", Float, nullable=False),
    Column("created_ms", BIG, nullable=False),
    Index("challenger_by_bundle", "bundle_sha256"),
)

label_set = Table(
    "label_set",
    metadata,
    Column("model", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("scale", String(16), nullable=False),  # dsops_controller.dataops.labels.agreement.Scale
    Column("classes", Text, nullable=False),  # JSON list, in order
    Column("guideline", Text, nullable=False, server_default=""),  # what labellers are told
    Column("created_ms", BIG, nullable=False),
)

labelled_sample = Table(
    "labelled_sample",
    metadata,
    Column("sample", String(128), primary_key=True),  # device/stream/seq
    Column("device", String(64), nullable=False),
    Column("site", String(64), nullable=False, server_default=""),  # as the inventory had it when it was labelled
    Column("model", String(63), nullable=False),
    Column("release", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("reason", String(64), nullable=False),
    Column("predicted", Text, nullable=False),
    Column("time_ms", BIG, nullable=False),  # when it was captured
    Index("labelled_sample_by_model", "model"),
)

label = Table(
    "label",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),  # rows are appended, never changed
    Column("sample", String(128), ForeignKey("labelled_sample.sample"), nullable=False),
    Column("labeller", String(80), nullable=False),
    Column("label", String(256), nullable=False),
    Column("set_version", Integer, nullable=False),
    Column("time_ms", BIG, nullable=False),  # when the labeller gave it
    Column("stored_ms", BIG, nullable=False),
    Column("source", String(160), nullable=False, server_default=""),
    Index("label_by_sample", "sample", "labeller", "set_version", "time_ms", unique=True),
    sqlite_autoincrement=True,
)

erased_sample = Table(
    "erased_sample",
    metadata,
    Column("sample", String(128), primary_key=True),  # device/stream/seq; nothing shows it any more
    Column("reason", String(200), nullable=False),
    Column("erased_ms", BIG, nullable=False),
)

dataset = Table(
    "dataset",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),  # SHA-256 of the manifest
    Column("model", String(63), nullable=False),
    Column("lake_version", BIG, nullable=False),  # of the table of samples
    Column("set_version", Integer, nullable=False),  # of the labels
    Column("query", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("manifest", LargeBinary, nullable=False),  # JSON lines, zlib
    Column("records", LargeBinary, nullable=False),  # device/stream/seq of each line of the manifest, zlib
    Column("created_ms", BIG, nullable=False),
    Index("dataset_by_digest", "digest"),
)

dataset_removal = Table(
    "dataset_removal",  # versions whose samples are kept no longer than others
    metadata,
    Column("name", String(63), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("removed_ms", BIG, nullable=False),
)

dataset_export = Table(
    "dataset_export",
    metadata,
    Column("sha256", String(64), primary_key=True),  # of a file that was handed out
    Column("digest", String(64), primary_key=True),
    Column("split", String(16), nullable=False),
    Column("form", String(16), nullable=False),
    Column("created_ms", BIG, nullable=False),
)

pseudonym_secret = Table(
    "pseudonym_secret",
    metadata,
    Column("id", Integer, primary_key=True),  # 1: one for all controllers over the database
    Column("secret", LargeBinary, nullable=False),
)

retraining = Table(
    "retraining",
    metadata,
    Column("id", String(64), primary_key=True),  # idempotency key: of cause, data set and bundle
    Column("model", String(63), nullable=False),
    Column("cause", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("evidence", Text, nullable=False),
    Column("dataset", String(80), nullable=False, server_default=""),  # NAME/VERSION
    Column("dataset_digest", String(64), nullable=False, server_default=""),
    Column("bundle_sha256", String(64), nullable=False, server_default=""),
    Column("note", Text, nullable=False, server_default=""),
    Column("created_ms", BIG, nullable=False),
    Column("updated_ms", BIG, nullable=False),
    Index("retraining_by_model", "model", "created_ms"),
)

retraining_delivery = Table(
    "retraining_delivery",
    metadata,
    Column("retraining", String(64), ForeignKey("retraining.id"), primary_key=True),
    Column("adapter", String(63), primary_key=True),  # its name in controller.toml
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_ms", BIG, nullable=False),
    Column("error", Text, nullable=False, server_default=""),
)

stream = Table(
    "stream",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),  # hex
    Column("kind", String(16), nullable=False),  # telemetry or samples
    Column("seq", BIG, nullable=False),  # everything up to here is stored
    Column("stored", BIG, nullable=False),  # records stored from this stream
    Column("produced", BIG, nullable=False),  # as the device says
    Column("dropped", BIG, nullable=False),  # as the device says
    Column("updated_ms", BIG, nullable=False),
)

stream_loss = Table(
    "stream_loss",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("stream", String(32), primary_key=True),
    Column("kind", String(32), primary_key=True),  # of the records that were dropped
    Column("reason", String(32), primary_key=True),
    Column("count", BIG, nullable=False),  # since the stream began, as the device says
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("device", String(64), nullable=False),
    Column("stream", String(32), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("seqs", LargeBinary, nullable=False),  # u64 little-endian each
    Column("payload", LargeBinary, nullable=False),  # the batch message as received
    Column("received_ms", BIG, nullable=False),
    sqlite_autoincrement=True,  # an id that is used again would break the flush tag
)

inbox_name = Table(
    "inbox_name",
    metadata,
    Column("name", String(32), primary_key=True),  # the one row: what the inbox is called in the lake's tables
)

device_latest = Table(
    "device_latest",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("model", String(63), primary_key=True),  # empty for the host row
    Column("time_ms", BIG, nullable=False),
    Column("figures", Text, nullable=False),
)

drift_state = Table(
    "drift_state",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("release", Integer, nullable=False),
    Column("level", String(16), nullable=False),  # ok, warning or drift
    Column("score", Float, nullable=False),
    Column("frames", BIG, nullable=False),
    Column("since_ms", BIG, nullable=False),
    Column("figures", Text, nullable=False),
    Column("heard_ms", BIG, nullable=False, server_default="0"),  # when it was told last, by the controller's clock
)

drift_newest = Table(
    "drift_newest",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("release", Integer, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("time_ms", BIG, nullable=False),
    Column("state", String(16), nullable=False),
    Column("since_ms", BIG, nullable=False),
    Column("onset_ms", BIG, nullable=False),
    Column("score", Float, nullable=False),
    Column("frames", BIG, nullable=False),
    Column("log_e", Float, nullable=False),
    Column("log_e_before", Float, nullable=False),  # at the end of the epoch before; 0 without one
    Column("epoch_ms", BIG, nullable=False),
    Column("epoch_frames", BIG, nullable=False),
    Column("skew", String(16), nullable=False),
    Column("skew_facts", Text, nullable=False),  # JSON: frames, p_value, signals
    Column("signals", Text, nullable=False),  # JSON: by name, cusum and thinning
    Column("heard_ms", BIG, nullable=False, server_default="0"),  # when it was taken, by the controller's clock
)

heartbeat = Table(
    "heartbeat",
    metadata,
    Column("device", String(64), primary_key=True),
    Column("time_ms", BIG, nullable=False),
    Column("received_ms", BIG, nullable=False),
    Column("interval_ms", BIG, nullable=False),
    Column("uptime_s", BIG, nullable=False),
    Column("agent_version", String(64), nullable=False),
    Column("waiting", Text, nullable=False),  # JSON: what waits in the spool, by kind
)

bundle_total = Table(
    "bundle_total",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("release", Integer, primary_key=True),
    Column("since_ms", BIG, nullable=False),
    Column("updated_ms", BIG, nullable=False),
    Column("answers", BIG, nullable=False),
    Column("errors", BIG, nullable=False),
    Column("unobserved", BIG, nullable=False),
    Column("latency", Text, nullable=False),  # JSON: see dsops_controller.dataops.lake.totals
    Column("confidence", Text, nullable=False),
    Column("named_by", String(64), nullable=False, server_default=""),  # whose share it takes; of a pushed one nobody's
)

audit = Table(
    "audit",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("time_ms", BIG, nullable=False),
    Column("actor", String(80), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(160), nullable=False),
    Column("detail", Text, nullable=False, default=""),
    sqlite_autoincrement=True,
)
