"""How the inference processes of champions and challengers are started, from the configuration."""

from pathlib import Path

import pytest

from dsops.modes import Mode
from dsops_agent.config import Config, load
from dsops_agent.launching import SHADOW_PATIENCE, launch, launch_challenger
from dsops_agent.runtime.settings import RuntimeSettings
from dsops_agent.runtime_process import PROOF_OOM_SCORE, START_S

TEXT = """
device = "cam-1"
state = "state"
temperature_sensor = "cpu*"
[trust]
root = "1.root.json"
[inference]
grpc = "127.0.0.1:8001"
rest = "127.0.0.1:8000"
queue = 3
threads = 2
cpus = [0]
nice = 5
cpu_percent = 50.0
max_temperature_c = 80.0
allow = ["61001"]
challenger_wait_s = 0.5
[inference.delegate]
library = "libthere.so"
[install]
hang_s = 7.0
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "agent.toml").write_text(TEXT)
    return load(tmp_path / "agent.toml").config


@pytest.mark.parametrize("mode", Mode)
def test_a_challenger_is_started_as_the_champion_but_for_who_asks_it(config: Config, mode: Mode) -> None:
    folder = Path("/run/dsops/split-digits")
    champion = RuntimeSettings.parse(launch(config).settings_json)
    found = RuntimeSettings.parse(launch_challenger(config, folder, "digits", mode).settings_json)
    own = {
        "socket": str(folder / "i.sock"),
        "grpc": "",
        "rest": "",
        "drift_enabled": False,
        "allow": (),
        "private": True,
        "instances": 1,
        "cpu_percent": 0.0,
        "max_temperature_c": 0.0,
    }
    assert found == champion.model_copy(update={**own, "shadow": mode is Mode.SHADOW})
    assert (champion.queue, champion.threads, champion.cpus, champion.nice, champion.cpu_percent) == (3, 2, (0,), 5, 50)
    assert champion.temperature_sensor == config.temperature_sensor == "cpu*"
    assert champion.delegate is not None
    assert launch(config).oom_score < launch_challenger(config, folder, "digits", mode).oom_score < PROOF_OOM_SCORE


@pytest.mark.parametrize("mode", Mode)
def test_a_delegate_that_serves_one_process_is_not_the_challengers(tmp_path: Path, mode: Mode) -> None:
    (tmp_path / "agent.toml").write_text(TEXT.replace("[install]", "exclusive = true\n[install]"))
    config = load(tmp_path / "agent.toml").config
    champion = RuntimeSettings.parse(launch(config).settings_json)
    challenger = RuntimeSettings.parse(launch_challenger(config, Path("/run/c"), "digits", mode).settings_json)
    assert champion.delegate is not None
    assert champion.delegate.exclusive
    assert challenger.delegate is None


def test_a_shadow_on_a_busy_device_has_more_time(config: Config) -> None:
    shadow = launch_challenger(config, Path("/run/s"), "digits", Mode.SHADOW)
    assert (shadow.hang_s, shadow.start_s) == (SHADOW_PATIENCE * 7.0, SHADOW_PATIENCE * START_S)
    for other in (launch(config), launch_challenger(config, Path("/run/s"), "digits", Mode.SPLIT)):
        assert (other.hang_s, other.start_s) == (7.0, START_S)
