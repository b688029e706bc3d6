from pathlib import Path

import pytest

from dsops.clock import ManualClock
from dsops.errors import InvalidConfig
from dsops_controller.dataops.lake.columns import LakeTable
from dsops_controller.fleet.decision import IdentityRules
from dsops_controller.retraining.settings import Command, RetrainingSettings, Webhook
from dsops_controller.server.config import (
    FILE,
    Advertise,
    RetentionSettings,
    ServerConfig,
    StoreSettings,
    encode_config,
    load_config,
)

TEXT = """
fleet = "north"
[advertise]
broker = "broker.example:8883"
store = "[::1]:8444"
"""


def write(folder: Path, text: str) -> Path:
    (folder / FILE).write_text(text)
    return folder


def test_what_is_not_written_has_its_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, TEXT))
    assert (config.rest.port, config.ingest.port, config.enrolment.port) == (8443, 8444, 8445)
    assert config.database_url(tmp_path) == f"sqlite:///{tmp_path}/state.db"
    assert config.identity.rules() == IdentityRules()


def test_encoded_configuration_is_read_back_as_it_was(tmp_path: Path) -> None:
    config = ServerConfig(
        fleet="north",
        database='postgresql://u:p"\\@h/db',
        advertise=Advertise(broker="h:1", store="h:2"),
        retraining=RetrainingSettings(
            models=("digits",),
            webhook={"ci": Webhook(url="https://ci.example/hook", secret_file="keys/ci")},
            command={"local": Command(arguments=("train", 'a "b"'))},
        ),
    )
    assert load_config(write(tmp_path, encode_config(config))) == config


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (TEXT.replace("[advertise]", "colour = 1\n[advertise]"), "colour"),
        (TEXT + "\n[rest]\nprot = 1\n", "rest.prot"),
        (TEXT.replace('fleet = "north"', ""), "fleet"),
        (TEXT.replace('store = "[::1]:8444"', ""), "advertise.store"),
        (TEXT + "\n[rest]\nport = 70000\n", "rest.port"),
        (TEXT + '\n[broker]\ntopic_prefix = "a/#"\n', "broker.topic_prefix"),
        (TEXT.replace("broker.example:8883", "broker.example"), "advertise.broker"),
        (TEXT + "\n[identity]\ncertificate_days = 0\n", "identity.certificate_days"),
        (TEXT + "\n[identity]\npending_max = -1\n", "identity.pending_max"),
        (TEXT + "\n[retraining]\ncooldown = 1\n", "retraining.cooldown"),
        (
            TEXT + '\n[retraining.webhook.x]\nurl = "http://ci.example/"\nsecret_file = "s"\n',
            "retraining.webhook.x.url",
        ),
        ("fleet = \n", "line 1"),
    ],
)
def test_a_wrong_key_is_named_with_its_file(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_config(write(tmp_path, text))
    assert str(tmp_path / FILE) in caught.value.what
    assert named in caught.value.why


def test_an_absent_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_config(tmp_path)
    assert "dsops server init" in caught.value.hint


def test_a_lake_is_a_folder_or_a_url(tmp_path: Path) -> None:
    clock = ManualClock()
    folder = ServerConfig(fleet="f", advertise=Advertise(broker="b:1", store="s:1"))
    assert folder.lake_place(tmp_path, clock).uri("hosts") == str(tmp_path / "lake/hosts")
    keys = {"aws_region": "eu-1", "aws_secret_access_key": 'a"b'}
    bucket = folder.model_copy(update={"store": StoreSettings(lake="s3://data/fleet/", options=keys)})
    place = load_config(write(tmp_path, encode_config(bucket))).lake_place(tmp_path, clock)
    assert place.uri("hosts") == "s3://data/fleet/hosts"
    assert place.options == {**keys, "aws_conditional_put": "etag"}
    for lake, options in (("ftp://host/x", {}), ("s3://", {}), ("lake", keys)):
        wrong = folder.model_copy(update={"store": StoreSettings(lake=lake, options=options)})
        with pytest.raises(InvalidConfig):
            wrong.lake_place(tmp_path, clock)


def test_retention_is_days_by_table() -> None:
    rules = RetentionSettings(telemetry_days=7, samples_days=0).rules()
    assert (rules.days[LakeTable.HOSTS], rules.days[LakeTable.KPIS], rules.days[LakeTable.SAMPLES]) == (7, 7, 0)
    assert (rules.days[LakeTable.EVENTS], rules.days[LakeTable.MINUTES], rules.sample_bytes) == (365, 400, 20 << 30)
