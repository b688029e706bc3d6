"""The demonstration's steps: one model's way round, on real data, through real processes.

Nothing here is fixed in advance: every figure is counted or measured, and depends on the seed and the data.
"""

import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dsops.bundle import Bundle
from dsops.directive import DesiredSlot
from dsops.errors import AwaitedFailure, BelowFloor, DsopsError, RuntimeTooOld, UnsignedDirective
from dsops_controller.demo import digits, slips
from dsops_controller.demo.commands import Json
from dsops_controller.demo.delivery import Counter, Mark
from dsops_controller.demo.digits import Labelled
from dsops_controller.demo.labelling import label
from dsops_controller.demo.lines import latency_us, telemetry_line
from dsops_controller.demo.ports import HOST
from dsops_controller.demo.prepare import prepare
from dsops_controller.demo.programs import Classifier, Program
from dsops_controller.demo.report import Report
from dsops_controller.demo.stage import FLEET, MODEL, Stage
from dsops_controller.demo.thief import Thief

COMPARED = 60
"""Requests that the challenger has to be compared on."""
VARIANT = "int8"
"""The variant that the devices run; the recipe makes others to compare with."""
CONFIG = "reading.json"
"""A file that the recipe sends along with the model, for programs on the device."""
RATE_HZ = 12.0
"""Frames a second of each camera."""
WARM_FRAMES = 100
ALARM_FRAMES = 100
"""The drift monitor must alarm within so many frames of the bad camera, or the demonstration fails."""
BAD_SAMPLES = 120
FORGERY, BELOW_FLOOR = UnsignedDirective.code, BelowFloor.code
"""How a device refuses what no director's key signed, and a release that the owners no longer allow."""
BAD = "fogged"
"""Requests of the bad camera are named so, with the number of the digit: by that their labels are known."""
BAD_STREAM = 300
"""Held-back digits that the camera shows when it is bad; the rest measure its accuracy before and after."""


class DemoFailed(DsopsError):
    """The demonstration did not show what it promises."""

    code = "demo.failed"


@dataclass
class Story:
    """What the steps hand to each other."""

    stage: Stage
    report: Report
    devices: tuple[str, ...]
    seed: int
    programs: dict[str, Program] = field(default_factory=dict)
    false_alarms: set[str] = field(default_factory=set)
    mqtt_bytes: int = 0

    def __post_init__(self) -> None:
        self.data = digits.splits(self.seed)
        rows = np.random.default_rng(self.seed).permutation(len(self.data.test))
        self.bad_stream = self.data.test.take(rows[:BAD_STREAM])
        self.bad_evaluation = self._seen_badly(self.data.test.take(rows[BAD_STREAM:]))
        self.bad_device = self.devices[self.seed % len(self.devices)]
        self.deliveries = Counter(self.stage, self.devices)

    def tell(self) -> None:
        """Run every step.

        Raises:
            DsopsError: A step failed; it is the last one begun.
        """
        steps = (
            ("Start broker and controller", self.stage.raise_curtain),
            ("Train, convert and quantize a model", self.build_first),
            ("Sign release 1 and hand it over as chunks", lambda: self.publish(1)),
            ("Enrol devices; roll out to a canary, then to the rest", self.enrol_and_roll_out),
            ("Programs on the devices ask for answers", self.ask),
            ("One camera goes bad", self.spoil_a_camera),
            ("Retrain with the returned samples; release 2", self.retrain),
            ("A bad release 3 stops itself", self.release_a_bad_one),
            ("Release 4 needs what no device has", self.release_an_unfit_one),
            ("A thief has the controller's keys", self.let_a_thief_try),
            ("The broker dies; release 5 comes on a stick", self.install_from_a_kit),
            ("Release 6 is compared in the shadow", self.compare_in_the_shadow),
            ("Count every record", self.count),
        )
        for title, act in steps:
            with self.report.step(title):
                act()

    def build_first(self) -> None:
        """Train on the digits, build every variant of the recipe, and compare."""
        self._build(1)
        report = json.loads((self._built(1) / "report.json").read_text())
        measured = report["measured_here"]
        int8 = next(variant for variant in report["variants"] if variant["name"] == VARIANT)
        accuracy = int8["metrics"]["accuracy"]
        before_us, after_us = (latency_us(one) for one in (measured["float"], measured["variants"][VARIANT]))
        self.report.record(
            float_accuracy=accuracy["float"],
            int8_accuracy=accuracy["variant"],
            float_bytes=report["float"]["size_bytes"],
            int8_bytes=int8["variant"]["size_bytes"],
            float_latency_us=before_us,
            int8_latency_us=after_us,
            parity=report["parity"]["largest_relative"],
        )
        self.report.say(f"float TFLite is within {report['parity']['largest_relative']:.0e} of the ONNX model")
        self.report.outcome(
            f"float {accuracy['float']:.2%}, {report['float']['size_bytes']} bytes, {before_us:.1f} us; "
            f"int8 {accuracy['variant']:.2%}, {int8['variant']['size_bytes']} bytes, {after_us:.1f} us"
        )

    def publish(self, release: int) -> None:
        """Package, sign and push a built model."""
        bundle = self._bundle(release)
        command = ("-r", str(release), "--variant", VARIANT, "--to", bundle, "--keys", self.stage.keys)
        self.stage.commands.run("bundle", "build", self._built(release), *command)
        row = self._hand_over(bundle)
        documents = Bundle.open(bundle).manifest.documents
        self.report.say(f"with {', '.join(documents.names())}")
        self.report.outcome(f"{row['path']}: {row['length_bytes']} bytes, sha256 {row['sha256'][:12]}...")

    def enrol_and_roll_out(self) -> None:
        """Start the agents with one-time tokens; roll out release 1 in two waves."""
        for device in self.devices:
            self.stage.start_agent(device)
        self.stage.wait_until("every device is enrolled and online", self._all_online)
        rollout = self._roll_out(1)
        updated = self._succeeded(rollout)
        self.report.record(devices_updated=updated)
        self.report.say(f"each has {CONFIG} beside its model: {self._configuration()}")
        sizes = " + ".join(str(len(wave)) for wave in rollout["waves"])
        self.report.outcome(f"{updated} of {len(self.devices)} devices run release 1, in waves of {sizes}")

    def ask(self) -> None:
        """Have a program on each device classify held-back digits; show what reached the store."""
        for number, device in enumerate(self.devices):
            inference = Classifier(self.stage.inference_socket(device), MODEL)
            program = Program(device, inference, self.data.held_out, rate_hz=RATE_HZ, seed=self.seed * 1000 + number)
            self.programs[device] = program
            program.start()
        self.stage.wait_until("every device has answered", lambda: self._every_tally() >= WARM_FRAMES)
        self.stage.wait_until("telemetry of every device is stored", self._all_reported)
        tallies = [program.tally for program in self.programs.values()]
        answered = sum(t.answered for t in tallies)
        accuracy = sum(t.correct for t in tallies) / answered
        self.report.record(device_accuracy=accuracy)
        for row in self.stage.online("telemetry", "show", "--model", MODEL):
            self.report.say(f"{row['device']}: {telemetry_line(row)}; {self._host_line(row['device'])}")
        self.report.outcome(f"{answered} answers, {accuracy:.2%} right")

    def spoil_a_camera(self) -> None:
        """Fog one camera; wait for its alarm, and for its samples."""
        program = self.programs[self.bad_device]
        seeds = itertools.count(self.seed * 100_000)
        clean = program.look_through(BAD, self.bad_stream, lambda frames: digits.bad_camera(frames, next(seeds)))
        self.stage.wait_until(
            "the bad camera's device raises an alarm", lambda: self._level(self.bad_device) == "drift"
        )
        (row,) = [row for row in self.stage.online("drift", "show", MODEL) if row["device"] == self.bad_device]
        frames = int(row["frames"]) - clean
        self.stage.wait_until("its samples are stored", lambda: self._bad_samples() >= BAD_SAMPLES)
        before = self._bad_accuracy()
        self.report.record(accuracy_bad_camera_before=before, drift_alert_frames=frames)
        self._expect(0 < frames <= ALARM_FRAMES, f"the alarm came after {frames} frames, {ALARM_FRAMES} are allowed")
        because = ", ".join(name for name, _ in sorted(row["signals"].items(), key=lambda s: -s[1])[:3])
        self.report.outcome(f"{self.bad_device}: accuracy {before:.2%}; alarm after {frames} frames ({because})")

    def retrain(self) -> None:
        """Label what came back, train with it, roll out release 2, and look at the bad camera again."""
        archive = self.stage.folder / "samples.npz"
        self.stage.commands.run("sample", "export", archive, "--device", self.bad_device, online=True)
        returned = label(self.stage, self.report, archive, BAD, self.bad_stream.y)
        self._build(2, returned)
        before_release = self.deliveries.mark()
        self.publish(2)
        self._compare(self._bundle(1), self._bundle(2))
        self._look_for_false_alarms()
        updated = self._succeeded(self._roll_out(2))
        self._show_delta(before_release)
        after, before = self._bad_accuracy(), float(self.report.figures["accuracy_bad_camera_before"])
        self.report.record(accuracy_bad_camera_after=after, devices_updated=updated, returned_samples=len(returned))
        self._expect(after > before + 0.1, f"the bad camera went from {before:.2%} to {after:.2%} only")
        self.report.outcome(f"bad camera: {before:.2%} right before, {after:.2%} after")

    def release_a_bad_one(self) -> None:
        """Sign a release whose labels are in the wrong order; the devices refuse it."""
        bundle = self._bundle(3)
        slips.permute_labels(self._bundle(2), bundle, 3)
        self._hand_over(bundle)
        for program in self.programs.values():
            program.begin_tally()
        rollout, codes = self._roll_out_in_vain(3)
        halted = set(codes.values()) == {"bundle.golden_mismatch"}
        self.stage.wait_until("every device answers", lambda: self._every_tally() >= 1)
        answered_by = {release for program in self.programs.values() for release in program.tally.releases}
        self.report.record(bad_release_halted=halted)
        self._expect(halted, f"release 3 was refused for another reason: {codes}")
        self._expect(answered_by == {"2"}, f"release {', '.join(sorted(answered_by))} answered, not 2 alone")
        self.stage.commands.run("rollout", "abort", rollout, online=True)
        self.report.outcome(f"refused by {', '.join(codes)}; halted at the canary; release 2 answers")

    def release_an_unfit_one(self) -> None:
        """Sign a release for a runtime that no device has; it is refused before a byte of it is asked for."""
        bundle = self._bundle(4)
        slips.need_future_runtime(self._bundle(2), bundle, 4)
        before = self.deliveries.mark()
        self._hand_over(bundle)
        rollout, codes = self._roll_out_in_vain(4)
        ((device, code),) = codes.items()
        self._expect(code == RuntimeTooOld.code, f"release 4 was refused for another reason: {codes}")
        self.stage.wait_until(f"{device} says so itself", lambda: self.deliveries.problem(device) == code)
        fetched = self.deliveries.fetched_since(before, device)
        documents = self.deliveries.documents_since(before, bundle)
        self._expect(0 < fetched <= documents, f"{device} fetched {fetched} bytes, documents have {documents}")
        self.stage.commands.run("rollout", "abort", rollout, online=True)
        self.report.record(
            unfit_release_refused=code, unfit_release_fetched_bytes=fetched, unfit_release_documents_bytes=documents
        )
        self.report.outcome(f"{device}: {code}; it fetched {fetched} bytes of signed documents, none of the bundle")

    def let_a_thief_try(self) -> None:
        """Forge a directive; then misuse every online key for an old release. The device refuses both, and answers."""
        stage, device = self.stage, self.bad_device
        stage.commands.run("policy", "set", MODEL, "--floor", "2", "--keys", stage.keys, "--server", stage.server)
        thief = Thief(stage.server, FLEET, HOST, stage.ports.broker)
        slot = (MODEL, self._slot_of(1))
        seq = int(stage.client.device(device)["seq"])
        self.report.say(f"it writes to {device}, over the broker: run release 1 again; signed with a key of its own")
        thief.forge(device, seq + 1, slot)
        self._wait_for_refusal(device, FORGERY)
        self.report.say("it writes the same again, now signed with the controller's own key")
        thief.misuse_online_keys(device, int(stage.client.device(device)["seq"]) + 1, slot)
        self._wait_for_refusal(device, BELOW_FLOOR)
        stage.online("device", "why", device, f"{MODEL}/1")
        self.stage.wait_until("the controller has the last word again", lambda: self._is_at_peace(device))
        answered = {release for program in self.programs.values() for release in program.tally.releases}
        self._expect(answered == {"2"}, f"release {', '.join(sorted(answered))} answered, not 2 alone")
        self.report.record(forgery_refused=FORGERY, stolen_keys_refused=BELOW_FLOOR)
        self.report.outcome(f"refused by {device}: {FORGERY}, {BELOW_FLOOR}; release 2 answers")

    def install_from_a_kit(self) -> None:
        """Stop the broker, bring a device its next release in a folder, and start the broker again."""
        stage, device, bundle = self.stage, self.bad_device, self._bundle(5)
        slips.number_anew(self._bundle(2), bundle, 5)
        row = self._hand_over(bundle)
        self.mqtt_bytes += self._mqtt_bytes()  # a broker counts from its start
        stage.stop_broker()
        stage.wait_until("the devices are cut off", lambda: not any(map(self.deliveries.is_connected, self.devices)))
        before = self.deliveries.mark()
        self.report.say("the broker is stopped, and no device is connected")
        rollout = stage.online("rollout", "create", f"{MODEL}/5", "--device", device)["id"]
        stage.wait_until("there is a directive", lambda: self._is_directed(device, row["sha256"]))
        stage.online("device", "kit", device, "--out", stage.folder / "stick")
        config = stage.home(device) / "agent.toml"
        said = stage.commands.run_on_device("install", stage.folder / "stick", "--config", config)
        self.report.say(f"{device} says: {said.strip().splitlines()[-1]}")
        self._expect(self.deliveries.has_installed(device, row["sha256"]), f"{device} does not run release 5")
        by_broker = self.deliveries.fetched_since(before, device, "broker")
        from_stick = self.deliveries.fetched_since(before, device, "folder")
        self._expect(from_stick > by_broker == 0, f"{by_broker} bytes came over a broker that was stopped")
        self.programs[device].begin_tally()
        stage.wait_until("release 5 answers", lambda: set(self.programs[device].tally.releases) == {"5"})
        stage.start_broker()
        stage.wait_until("the controller knows", lambda: stage.client.rollout(rollout)["state"] == "succeeded")
        self.report.record(kit_bytes=from_stick, kit_bytes_over_the_network=by_broker)
        self.report.outcome(
            f"{device} runs release 5, {from_stick} bytes from the stick, {by_broker} over the network; "
            "the broker is back, and the controller knows"
        )

    def compare_in_the_shadow(self) -> None:
        """Give the device with the bad camera a challenger that gets copies of its requests: the first network."""
        stage, device, bundle = self.stage, self.bad_device, self._bundle(6)
        slips.number_anew(self._bundle(1), bundle, 6)
        self._hand_over(bundle)
        self.programs[device].begin_tally()
        stage.online("challenger", "set", f"{MODEL}/6", "--device", device, "--shadow", "50")
        stage.wait_until("enough requests are compared", lambda: self._comparison()["compared"] >= COMPARED)
        stage.online("challenger", "show", MODEL)
        found = self._comparison()
        share = found["disagreed"] / found["compared"]
        answered_by = set(self.programs[device].tally.releases)
        self._expect(answered_by == {"5"}, f"release {', '.join(sorted(answered_by))} answered, not 5 alone")
        self._expect(share > 0, "two networks never disagree on a camera that one of them cannot read")
        stage.online("challenger", "clear", MODEL)
        self.report.record(shadow_compared=found["compared"], shadow_disagreed=found["disagreed"])
        self.report.outcome(
            f"{device}: {found['compared']} requests copied, {share:.0%} answered otherwise by release 6; "
            "every answer came from release 5"
        )

    def _comparison(self) -> Json:
        rows = self.stage.client.comparisons(model=MODEL, minutes=None)
        return next((row for row in rows if row["challenger_release"] == 6), {"compared": 0, "disagreed": 0})

    def count(self) -> None:
        """Stop the programs and the devices; compare what was produced with what is stored."""
        for program in self.programs.values():
            program.stop()
        self._look_for_false_alarms()
        self.report.record(drift_false_alarms=len(self.false_alarms))
        self.stage.processes.stop(*self.stage.agents())
        spools = [self.deliveries.status(device)["spool"] for device in self.devices]
        kinds = [kind for spool in spools for kind in spool.values()]
        produced, dropped = (sum(kind[name] for kind in kinds) for name in ("produced", "dropped"))
        summary = self.stage.online("server", "status")
        stored, duplicates = summary["records_stored"], summary["duplicates"]
        failed = sum(program.total.failed for program in self.programs.values())
        answered = sum(program.total.answered for program in self.programs.values())
        self.report.record(
            records_produced=produced,
            records_stored=stored,
            records_dropped=dropped,
            duplicates=duplicates,
            inferences=answered,
            inference_failures=failed,
            mqtt_bytes=self.mqtt_bytes + self._mqtt_bytes(),
            grpc_bytes=summary["grpc_bytes"],
        )
        self.report.outcome(
            f"{produced} produced = {stored} stored + {dropped} dropped, {duplicates} twice; "
            f"{answered} answers, {failed} failures"
        )
        self._expect(produced == stored + dropped, f"{produced} records produced, {stored} stored, {dropped} dropped")
        self._expect(duplicates == 0, f"{duplicates} records are stored twice")
        self._expect(failed == 0, f"{failed} requests failed")

    def _build(self, release: int, returned: Labelled | None = None) -> Json:
        begun = time.monotonic()
        recipe = self.stage.folder / f"recipe-{release}"
        prepare(recipe, self.seed, returned)
        self.report.say(f"trained a small CNN in {time.monotonic() - begun:.1f} s (NumPy)")
        return self.stage.commands.run("model", "build", recipe, "--to", self._built(release))

    def _configuration(self) -> str:
        """Return what the file says that came with the model, the same on every device.

        Raises:
            DemoFailed: A device has another one, or none.
        """
        folders = [self.stage.home(device) / "state" / "slots" / MODEL / "active" / "files" for device in self.devices]
        texts = {(folder / CONFIG).read_text() for folder in folders if (folder / CONFIG).is_file()}
        wanted = (self._built(1) / "shared" / CONFIG).read_text()
        self._expect(texts == {wanted}, f"a device does not have {CONFIG} as it was packaged")
        return wanted

    def _compare(self, old: Path, new: Path) -> None:
        """Show what an update brings and costs."""
        found = self.stage.commands.run("bundle", "diff", old, new)
        update = found["update"]
        self.report.record(update_bytes=update["length_bytes"])
        self.report.say(f"{len(found['weights'])} of its tensors changed")

    def _show_delta(self, since: Mark) -> None:
        """Show what the devices fetched for release 2, and that it was a delta."""
        (row,) = [row for row in self.stage.client.bundles() if row["release"] == 2]
        sha256, length = row["sha256"], int(row["length_bytes"])
        self.stage.wait_until("every device says that it runs release 2", lambda: self._all_installed(sha256))
        made = [self.deliveries.was_made_of_a_delta(device, sha256) for device in self.devices]
        self._expect(all(made), "a device fetched the whole bundle")
        fetched = [self.deliveries.fetched_since(since, device) for device in self.devices]
        offers = [self.deliveries.delta_of(device) for device in self.devices]
        delta = max(offer.length_bytes if offer else 0 for offer in offers)
        self._expect(0 < delta < min(fetched) <= max(fetched) < length, f"they fetched {fetched} of {length} bytes")
        self.report.record(delta_bytes=delta, fetched_bytes=max(fetched))
        self.report.say(
            f"each device made it of a delta of {delta} bytes: it fetched {max(fetched)} bytes, "
            f"trust documents and all, for a bundle of {length} ({max(fetched) / length:.0%})"
        )

    def _hand_over(self, bundle: Path) -> Json:
        self.stage.commands.run("bundle", "sign", bundle, "--keys", self.stage.keys, online=True)
        return self.stage.online("bundle", "push", bundle)

    def _roll_out(self, release: int) -> Json:
        return self.stage.online("rollout", "create", f"{MODEL}/{release}", "--wave", "1", "--wait", "--timeout", "60")

    def _roll_out_in_vain(self, release: int) -> tuple[str, dict[str, str]]:
        """Roll out what the canary refuses; return the rollout's id, and the code by device.

        Raises:
            DemoFailed: It was not halted at the canary.
        """
        try:
            self._roll_out(release)
        except AwaitedFailure as error:
            self.report.say(str(error))
        (rollout,) = [r for r in self.stage.client.rollouts() if r["release"] == release]
        rollout = self.stage.client.rollout(rollout["id"])
        codes = {part["device"]: part["code"] for wave in rollout["waves"] for part in wave if part["code"]}
        asked = [part for wave in rollout["waves"][1:] for part in wave if part["state"] != "pending"]
        is_halted = rollout["state"] == "paused" and len(codes) == 1 and not asked
        self._expect(is_halted, f"release {release} was not halted at the canary: {rollout['state']} {codes}")
        return rollout["id"], codes

    def _mqtt_bytes(self) -> int:
        mqtt = self.stage.client.summary()["mqtt"]
        return int(mqtt["bytes_in"] + mqtt["bytes_out"])

    def _is_directed(self, device: str, sha256: str) -> bool:
        return sha256 in {bundle["sha256"] for bundle in self.stage.client.directive(device)["bundles"]}

    def _succeeded(self, rollout: Json) -> int:
        return sum(part["state"] == "succeeded" for wave in rollout["waves"] for part in wave)

    def _built(self, release: int) -> Path:
        return self.stage.folder / f"built-{release}"

    def _bundle(self, release: int) -> Path:
        return self.stage.folder / f"{MODEL}-{release}.bundle"

    def _slot_of(self, release: int) -> DesiredSlot:
        """Return what a directive says of a release that was pushed."""
        (row,) = [row for row in self.stage.client.bundles() if row["release"] == release]
        facts = {key: row[key] for key in ("path", "sha256", "length_bytes", "release")}
        return DesiredSlot(**facts, deployment=f"thief-{release}")

    def _wait_for_refusal(self, device: str, code: str) -> None:
        """Wait until the store holds the event that a device refused something with this code."""

        def is_told() -> bool:
            return code in {row["code"] for row in self.stage.client.events(device=device, kind="refused")}

        self.stage.wait_until(f"{device} tells that it refused something: {code}", is_told)
        self.report.say(f"{device} refuses: {code}")

    def _is_at_peace(self, device: str) -> bool:
        """Return whether a device is where the controller wants it, and refuses nothing any more."""
        view = self.stage.client.device(device)
        return view["refused"] is None and view["models"][MODEL]["install"] == "committed"

    def _all_installed(self, sha256: str) -> bool:
        return all(self.deliveries.has_installed(device, sha256) for device in self.devices)

    def _all_online(self) -> bool:
        rows = self.stage.client.devices()
        return {row["id"] for row in rows if row["online"] and row["state"] == "accepted"} == set(self.devices)

    def _every_tally(self) -> int:
        return min(program.tally.answered for program in self.programs.values())

    def _all_reported(self) -> bool:
        models = {row["device"] for row in self.stage.client.telemetry(model=MODEL) if row["count"]}
        hosts = {row["id"] for row in self.stage.client.devices() if "" in row["telemetry"]}
        return models == hosts == set(self.devices)

    def _host_line(self, device: str) -> str:
        host = self.stage.client.device(device)["telemetry"][""]
        mib = (host["agent_rss_bytes"] + host["runtime_rss_bytes"]) / 2**20
        return f"host cpu {host['cpu_percent']:.0f} %, agent and runtime {mib:.0f} MiB"

    def _level(self, device: str) -> str:
        levels = {row["device"]: row["level"] for row in self.stage.client.drift(MODEL)}
        return str(levels.get(device, "ok"))

    def _bad_samples(self) -> int:
        """Return how many frames of the bad camera were kept, for whatever reason."""
        rows = self.stage.client.samples(device=self.bad_device, limit=10_000)
        return len({row["request_id"] for row in rows if row["request_id"].startswith(BAD)})

    def _look_for_false_alarms(self) -> None:
        """Note good cameras that raised an alarm; it stands until the device runs another release."""
        self.false_alarms |= {d for d in self.devices if d != self.bad_device and self._level(d) == "drift"}
        self._expect(not self.false_alarms, f"drift alarm without a reason: {', '.join(sorted(self.false_alarms))}")

    def _seen_badly(self, data: Labelled) -> Labelled:
        return Labelled(digits.bad_camera(data.x, self.seed + 1), data.y)

    def _bad_accuracy(self) -> float:
        inference = Classifier(self.stage.inference_socket(self.bad_device), MODEL)
        try:
            return inference.accuracy(self.bad_evaluation)
        finally:
            inference.close()

    def _expect(self, is_true: bool, otherwise: str) -> None:
        if not is_true:
            raise DemoFailed(otherwise, hint=f"see the logs in {self.stage.processes.logs}")
