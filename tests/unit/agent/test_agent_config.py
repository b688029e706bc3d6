"""agent.toml: what is accepted, what each mistake says, and what `config show` prints."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from dsops.clock import ManualClock
from dsops.errors import InvalidConfig
from dsops_agent.conditions import SystemConditions
from dsops_agent.config import Config, DelegateSection, known_keys, load
from dsops_agent.parts import gate

GOOD = """
device = "cam-1"
state = "state"
[trust]
root = "1.root.json"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "agent.toml"
    path.write_text(text)
    return path


def test_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    text = GOOD + '[inference]\nsocket = "x.sock"\n[enrolment]\naddress = "h:1"\nca = "/etc/ca"\ntoken = "t"\n'
    config = load(write(tmp_path, text)).config
    assert config.state == tmp_path / "state"
    assert config.trust.root == tmp_path / "1.root.json"
    assert config.run_folder == tmp_path / "state/run"
    assert config.inference_socket == tmp_path / "x.sock"
    assert config.enrolment is not None
    assert (config.enrolment.ca, config.enrolment.token) == (Path("/etc/ca"), tmp_path / "t")


def test_sockets_are_in_the_run_folder_by_default(tmp_path: Path) -> None:
    config = load(write(tmp_path, 'run = "r"' + GOOD)).config
    assert config.run_folder == tmp_path / "r"
    assert config.inference_socket == tmp_path / "r/inference.sock"


def test_web_servers_are_one_url_or_several(tmp_path: Path) -> None:
    one = load(write(tmp_path, GOOD + '[transfer]\nhttp = "https://cdn.example/x/"\nhttp_ca = "ca.pem"\n'))
    assert one.config.transfer.http == ("https://cdn.example/x",)
    assert one.config.transfer.http_ca == tmp_path / "ca.pem"
    two = load(write(tmp_path, GOOD + '[transfer]\nhttp = ["https://a", "http://b:8080/c"]\n'))
    assert two.config.transfer.http == ("https://a", "http://b:8080/c")
    assert "https://a, http://b:8080/c" in [setting.value for setting in two.settings()]


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (GOOD + "[mqtt]\nkeep_alive_s = 3\n", "mqtt.keep_alive_s", "mqtt.keepalive_s"),
        (GOOD + "colour = 1\n", "trust.colour", "trust"),
        (GOOD.replace('device = "cam-1"', ""), "device", "name of this device"),
        (GOOD.replace("cam-1", "cam 1"), "device", "1 to 64"),
        (GOOD.replace("cam-1", "controller"), "device", "controller"),
        (GOOD + '[mqtt]\nkeepalive_s = "soon"\n', "mqtt.keepalive_s", "integer"),
        (GOOD + "[install]\nwindow = 17\n", "install.window", "16"),
        (GOOD + '[enrolment]\naddress = "nowhere"\nca = "c"\ntoken = "t"\n', "enrolment.address", "host:port"),
        (GOOD.replace('root = "1.root.json"', ""), "trust.root", "root"),
        (GOOD + "[site_cache]\nserve = true\n", "site_cache", "without broker"),
        (GOOD + '[site_cache]\nbroker = "h:1"\nca = "c"\nkey = "k"\n', "site_cache", "go together"),
        (GOOD + '[transfer]\nhttp = "ftp://host/x"\n', "transfer.http.0", "https://host/path"),
        (GOOD + '[transfer]\nhttp = ["https://a:b@host"]\n', "transfer.http.0", "https://host/path"),
        (GOOD + '[transfer]\nhttp = "http://[::1"\n', "transfer.http.0", "URL"),
        ('run = "' + "r" * 120 + '"' + GOOD, "run", "107"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(tmp_path: Path, text: str, key: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InvalidConfig) as caught:
        load(path)
    error = caught.value
    assert error.details["key"] == key
    assert str(path) in error.what
    assert key in error.what
    assert says in f"{error.what} {error.why} {error.hint}"
    assert error.hint


def test_a_file_that_is_absent_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"none\.toml"):
        load(tmp_path / "none.toml")
    with pytest.raises(InvalidConfig, match="is not TOML") as caught:
        load(write(tmp_path, "device = cam-1"))
    assert "line 1" in caught.value.why
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidConfig, match="is not TOML"):
        load(tmp_path / "binary.toml")


def test_every_key_has_a_meaning_and_an_origin(tmp_path: Path) -> None:
    text = GOOD + '[enrolment]\naddress = "h:1"\nca = "c"\ntoken = "t"\n[mqtt]\nkeepalive_s = 7\n'
    text += '[inference.delegate]\nlibrary = "libedgetpu.so.1"\n'
    settings = {s.key: s for s in load(write(tmp_path, text)).settings()}
    assert tuple(settings) == known_keys()
    assert all(s.meaning for s in settings.values())
    assert (settings["mqtt.keepalive_s"].value, settings["mqtt.keepalive_s"].origin) == (7, "file")
    assert settings["mqtt.reconnect_max_s"].origin == "default"
    assert settings["inference.socket"].value == ""


def test_the_configuration_cannot_be_changed(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD)).config
    with pytest.raises(ValueError, match="frozen"):
        config.device = "other"
    assert isinstance(config, Config)


def test_maintenance_rules_are_read_in_their_zone(tmp_path: Path) -> None:
    text = '\n[maintenance]\ntimezone = "Europe/Berlin"\ndownload = ["mon-fri 22:00-05:00", "sat 00:00-24:00"]\n'
    loaded = load(write(tmp_path, GOOD + text + 'metered = ["wwan*"]\n'))
    rules = loaded.config.maintenance.rules()
    assert (rules.download.zone.key, len(rules.download.windows), rules.activate.windows) == ("Europe/Berlin", 2, ())
    shown = {s.key: (s.value, s.origin) for s in loaded.settings()}
    assert shown["maintenance.download"] == ("mon-fri 22:00-05:00, sat 00:00-24:00", "file")
    assert shown["maintenance.metered"] == ("wwan*", "file")
    assert shown["maintenance.activate"] == ("", "default")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('timezone = "Europe/Nowhere"', "there is no time zone Europe/Nowhere"),
        ('timezone = "../etc/passwd"', "there is no time zone"),
        ('timezone = ""', "there is no time zone"),
        ('download = ["22-05"]', "'22-05' is not a window; write it as: mon-fri 22:00-05:00"),
        ('activate = ["02:00-02:00"]', "it has no length"),
        ("idle_percent = 0", "greater than 0"),
        ("veto_timeout_s = 3600", "less than or equal to 60"),
    ],
)
def test_maintenance_rules_that_mean_nothing_are_refused(tmp_path: Path, line: str, why: str) -> None:
    with pytest.raises(InvalidConfig, match="maintenance") as caught:
        load(write(tmp_path, f"{GOOD}\n[maintenance]\n{line}\n"))
    assert why in caught.value.why


def test_only_the_first_contact_of_a_new_device_does_not_wait(tmp_path: Path) -> None:
    config = load(write(tmp_path, GOOD + "[mqtt]\nkeepalive_s = 7\n")).config
    assert config.mqtt.first_contact_max_s == 10.0
    hurried = config.at_once()
    assert (hurried.mqtt.first_contact_max_s, hurried.mqtt.keepalive_s) == (0.0, 7)


def test_a_site_is_a_name(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD + '[transfer]\nsite = "plant-7"\n')).config.transfer.site == "plant-7"
    with pytest.raises(InvalidConfig, match=r"transfer\.site"):
        load(write(tmp_path, GOOD + '[transfer]\nsite = "plant 7"\n'))


def test_a_device_without_maintenance_rules_asks_nobody(tmp_path: Path) -> None:
    plain = gate(load(write(tmp_path, GOOD)).config, ManualClock())
    assert plain.is_open_always
    assert (plain.host, plain.veto) == (None, None)
    text = GOOD + '[maintenance]\non_power = true\nveto = "bin/veto"\n'
    full = gate(load(write(tmp_path, text)).config, ManualClock())
    assert not full.is_open_always
    assert isinstance(full.host, SystemConditions)
    assert full.veto is not None
    assert "cannot be run" in (full.veto.ask(("download", "digits", "1")) or "")


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("libedgetpu.so.1", "edgetpu"),
        ("/usr/lib/libarmnn_delegate.so.29.1", "armnn_delegate"),
        ("vx.so", "vx"),
    ],
)
def test_a_delegate_is_called_as_its_library_is(library: str, name: str) -> None:
    assert DelegateSection(library=library).called == name
    assert DelegateSection(library=library, name="npu").called == "npu"


def test_a_delegate_whose_library_has_no_usable_name_needs_one() -> None:
    with pytest.raises(ValidationError, match="set name"):
        DelegateSection(library="Accelerator.dylib")
    assert DelegateSection(library="Accelerator.dylib", name="npu").called == "npu"
