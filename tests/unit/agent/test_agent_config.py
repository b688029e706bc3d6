"""agent.toml: what is accepted, what each mistake says, and what `config show` prints."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from dsops.clock import ManualClock
from dsops.direct import direct_path
from dsops.errors import InvalidConfig
from dsops.modes import Mode
from dsops_agent.app import Agent
from dsops_agent.challenger_processes import challenger_folder
from dsops_agent.conditions import SystemConditions, require_program
from dsops_agent.config import Config, known_keys, load, tables
from dsops_agent.config_inference import DelegateSection
from dsops_agent.config_values import CHALLENGER_SOCKET, SOCKET_PATH_BYTES
from dsops_agent.feed.settings import FeedSettings
from dsops_agent.feed_process import feed_settings
from dsops_agent.parts import gate, launch
from dsops_agent.runtime.settings import RuntimeSettings

GOOD = """
device = "cam-1"
state = "state"
[trust]
root = "1.root.json"
"""


TABLES = ("source.", "sink.", "samples.watch.")


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


def test_a_run_folder_that_is_accepted_has_room_for_the_sockets_of_every_challenger(tmp_path: Path) -> None:
    def sockets(length: int) -> list[Path]:
        run = load(write(tmp_path, f'run = "/{"r" * length}"' + GOOD)).config.run_folder
        folders = [challenger_folder(run, "m" * long, mode) for long in range(1, 64) for mode in Mode]
        return [direct_path(folder / CHALLENGER_SOCKET) for folder in folders]

    for length in range(20, 85):
        found = sockets(length)
        assert max(len(str(path)) for path in found) <= SOCKET_PATH_BYTES
        assert len({path.parent for path in found}) == len(found)
    with pytest.raises(InvalidConfig, match=r"gives a path that is too long for a socket"):
        sockets(85)


def test_web_servers_are_one_url_or_several(tmp_path: Path) -> None:
    one = load(write(tmp_path, GOOD + '[transfer]\nhttp = "https://cdn.example/x/"\nhttp_ca = "ca.pem"\n'))
    assert one.config.transfer.http == ("https://cdn.example/x",)
    assert one.config.transfer.http_ca == tmp_path / "ca.pem"
    two = load(write(tmp_path, GOOD + '[transfer]\nhttp = ["https://a", "http://b:8080/c"]\n'))
    assert two.config.transfer.http == ("https://a", "http://b:8080/c")
    assert "https://a, http://b:8080/c" in [setting.value for setting in two.settings()]


def test_who_may_ask_for_inference_and_how(tmp_path: Path) -> None:
    text = '[inference]\ngrpc = "127.0.0.1:8001"\nrest = "[::1]:8000"\nallow = ["root", "1001"]\nqueue = 0\n'
    config = load(write(tmp_path, GOOD + text)).config
    assert config.inference.uids() == (0, 1001)
    told = json.loads(launch(config).settings_json)
    assert told["allow"] == [0, 1001]
    assert RuntimeSettings.parse(launch(config).settings_json).queue == 0
    assert load(write(tmp_path, GOOD + '[inference]\nrest = "/run/r.sock"\n')).config.inference.rest == "/run/r.sock"
    relative = load(write(tmp_path, GOOD + '[inference]\nrest = "./r.sock"\n')).config
    assert relative.inference.rest == str(tmp_path / "r.sock")


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (GOOD + '[inference]\nrest = "0.0.0.0:8000"\n', "inference.rest", "loopback"),
        (GOOD + '[inference]\ngrpc = "localhost:8000"\n', "inference.grpc", "loopback"),
        (GOOD + '[inference]\ngrpc = "127.0.0.1"\n', "inference.grpc", "host:port"),
        (GOOD + '[inference]\nallow = ["nobody-here"]\n', "inference.allow.0", "no user nobody-here"),
        (GOOD + '[inference]\nallow = ["4294967295"]\n', "inference.allow.0", "no number of a user"),
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
        (GOOD + '[transfer]\nhttp = ["http://a", "http://a/"]\n', "transfer.http", "http://a is named twice"),
        (GOOD + '[transfer]\nhttp = ["http://a/x", "HTTP://A/x"]\n', "transfer.http", "http://a/x is named twice"),
        (GOOD + '[transfer]\nhttp = "http://a b/x"\n', "transfer.http.0", "https://host/path"),
        (GOOD + '[transfer]\nhttp = "http://:pw@host"\n', "transfer.http.0", "https://host/path"),
        (GOOD + "[install]\nscrub_hours = inf\n", "install.scrub_hours", "finite"),
        (GOOD + "[install]\nscrub_hours = 1e12\n", "install.scrub_hours", "less than"),
        (GOOD + "[mqtt]\nfirst_contact_max_s = inf\n", "mqtt.first_contact_max_s", "finite"),
        (GOOD + "[mqtt]\nfirst_contact_max_s = 1e12\n", "mqtt.first_contact_max_s", "less than"),
        (GOOD + "[samples]\nrandom_rate = nan\n", "samples.random_rate", "finite"),
        (GOOD + '[maintenance]\nveto = ""\n', "maintenance.veto", "leave the key out"),
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


def durations() -> list[tuple[str, str]]:
    units = ("_s", "_hours")
    return [(head, tail) for head, _, tail in (key.rpartition(".") for key in known_keys()) if tail.endswith(units)]


@pytest.mark.parametrize(("section", "key"), [(s, k) for s, k in durations() if not k.endswith("bytes_per_s")])
def test_no_duration_is_longer_than_the_system_can_wait(tmp_path: Path, section: str, key: str) -> None:
    head = '[enrolment]\naddress = "h:1"\nca = "c"\n' if section == "enrolment" else f"[{section}]\n"
    for value in ("inf", "nan", "1000000000000"):
        with pytest.raises(InvalidConfig, match=key):
            load(write(tmp_path, f"{GOOD}{head}{key} = {value}\n"))


def test_a_program_that_cannot_be_asked_is_named_at_the_start(tmp_path: Path) -> None:
    program = tmp_path / "bin/veto"
    config = load(write(tmp_path, GOOD + '[maintenance]\nveto = "bin/veto"\n')).config
    (tmp_path / "bin").mkdir()
    for prepare, why in (
        (lambda: None, "does not exist"),
        (program.mkdir, "no file"),
        (lambda: (program.rmdir(), program.touch(0o644)), "not executable"),
    ):
        prepare()
        with pytest.raises(InvalidConfig, match="cannot be asked") as caught:
            Agent(config, ManualClock()).run()
        assert why in caught.value.why
        assert caught.value.hint
    program.chmod(0o755)
    require_program(program)


SOURCE = '[[source]]\nname = "s"\nmodel = "m"\n'


def test_sources_and_sinks_are_tables_of_one_kind_each(tmp_path: Path) -> None:
    text = (
        SOURCE + '[source.directory]\npath = "in"\n'
        '[[source]]\nname = "door"\nmodel = "m"\nsinks = ["out"]\ncamera = { device = "/dev/video0" }\n'
        '[[sink]]\nname = "out"\nmqtt = { broker = "localhost:1883", topic = "a/{source}" }\n'
        '[[sink]]\nname = "kept"\nfile = { path = "a.jsonl" }\n'
    )
    loaded = load(write(tmp_path, GOOD + text))
    told = FeedSettings.parse(feed_settings(loaded.config))
    assert [source.kind for source in told.sources] == ["directory", "camera"]
    assert [sink.kind for sink in told.sinks] == ["mqtt", "file"]
    assert told.sources[0].directory is not None
    assert told.sources[0].directory.path == tmp_path / "in"
    shown = {s.key: (s.value, s.origin) for s in loaded.settings()}
    assert shown["source.1.camera.device"] == ("/dev/video0", "file")
    assert shown["sink.1.file.files"] == (4, "default")
    assert {setting.key for setting in tables()} == {key for key in known_keys() if key.startswith(TABLES)}
    assert all(setting.meaning for setting in tables())


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (SOURCE, "source.0", "one of directory, camera, mqtt and replay"),
        (SOURCE + 'directory = { path = "a" }\ncamera = { device = "0" }\n', "source.0", "one of directory, camera"),
        (SOURCE + 'directory = { path = "a", color = 1 }\n', "source.0.directory.color", "not known"),
        (SOURCE + 'color = "bgr"\n', "source.0.color", "did you mean source.colour"),
        (SOURCE + "camera = { }\n", "source.0.camera.device", "number of the camera"),
        (SOURCE + 'camera = { device = "0" }\nwindow = 3\n', "source.0", "no window"),
        (SOURCE + 'directory = { path = "a" }\nstride = 3\n', "source.0", "needs window"),
        (SOURCE + 'directory = { path = "a" }\nshape = [99999, 99999]\n', "source.0.shape", "16777216 values"),
        (SOURCE + 'replay = { path = "a.npy" }\n', "source.0", "rate_hz"),
        (SOURCE + 'directory = { path = "a" }\nsinks = ["x"]\n', "source", "the sink x"),
        (2 * (SOURCE + 'directory = { path = "a" }\n'), "source", "two are named s"),
        ('[[sink]]\nname = "k"\ncommand = { program = ["ls"] }\n', "sink.0.command", "path in full"),
        (
            '[[sink]]\nname = "k"\n',
            "sink.0",
            "frames of sources go; its keys are name, queue",
        ),
        ('[[sink]]\nname = "k"\ncommand = { program = ["ls"] }\n', "sink.0.command", "a program; its keys are program"),
        ('[[sink]]\nname = "k"\nmqtt = { broker = "h:1", topic = "t", password = "p" }\n', "sink.0.mqtt", "needs user"),
        ('[[sink]]\nname = "k"\nmqtt = { broker = "h:1", topic = "" }\n', "sink.0.mqtt.topic", "no topic"),
    ],
)
def test_mistakes_in_sources_and_sinks_name_the_key(tmp_path: Path, text: str, key: str, says: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load(write(tmp_path, GOOD + text))
    assert caught.value.details["key"] == key
    assert says in f"{caught.value} {caught.value.why} {caught.value.hint}"


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
    assert tuple(settings) == tuple(key for key in known_keys() if not key.startswith(TABLES))
    assert all(s.meaning for s in settings.values())
    assert (settings["mqtt.keepalive_s"].value, settings["mqtt.keepalive_s"].origin) == (7, "file")
    assert settings["mqtt.reconnect_max_s"].origin == "default"
    assert settings["inference.socket"].value == ""


def test_samples_are_handed_to_the_inference_process_as_they_are_configured(tmp_path: Path) -> None:
    text = GOOD + '[samples]\ninputs = true\nredact = [[0, 0, 0.5, 1]]\nredact_command = ["blur", "-x"]\n'
    text += '[[samples.watch]]\nclasses = ["person"]\nbelow = 0.9\nweight = 20\n'
    loaded = load(write(tmp_path, text))
    samples = RuntimeSettings.parse(launch(loaded.config).settings_json).samples
    assert (samples.inputs, samples.redact) == (True, ((0.0, 0.0, 0.5, 1.0),))
    assert samples.redaction_name == "regions and blur"
    (rule,) = samples.watch
    assert (rule.classes, rule.above, rule.below, rule.weight) == (("person",), 0.0, 0.9, 20.0)
    shown = {setting.key: (setting.value, setting.origin) for setting in loaded.settings()}
    assert shown["samples.watch.0.weight"] == (20.0, "file")
    usual = RuntimeSettings.parse(launch(load(write(tmp_path, GOOD)).config).settings_json).samples
    assert not usual.inputs
    assert usual.bytes_per_day == 5_000_000


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ("redact = [[0.5, 0, 0.5, 1]]", "a region is"),
        ("redact = [[0, 0, 1.5, 1]]", "a region is"),
        ('redaction = "faces"', "there is neither"),
        ('seal_to = "short"', "pattern"),
        ("[[samples.watch]]\nabove = 0.9\nbelow = 0.5\nweight = 2", "about no frame"),
        ("[[samples.watch]]\nabove = 0.9", "weight"),
        ("low_confidence = 0.5", "not known"),
    ],
)
def test_a_mistake_about_samples_is_told(tmp_path: Path, samples: str, why: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load(write(tmp_path, f"{GOOD}[samples]\n{samples}\n"))
    assert why in str(refused.value)


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
