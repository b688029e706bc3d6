"""The mutants: each takes one check out of the program, and names the tests that must then fail.

An edit is by exact text, found exactly once, so that a mutant whose place was rewritten is noticed and moved.
"""

from mutant import Mutant
from mutants_of_the_runtime import RUNTIME

DIRECTIVE = "core/dsops/directive.py"
DSSE = "core/dsops/dsse.py"
TRUST = "core/dsops/trust.py"
MESSAGES = "core/dsops/messages.py"
INTAKE = "agent/dsops_agent/install/intake.py"
JOURNAL = "agent/dsops_agent/install/journal.py"
REFUSALS = "agent/dsops_agent/install/refusals.py"
CERTIFICATES = "controller/dsops_controller/fleet/certificates.py"
TOKENS = "controller/dsops_controller/fleet/tokens.py"
IDENTITY = "controller/dsops_controller/server/identity.py"
GATE = "controller/dsops_controller/server/gate.py"
TRUST_STORE = "agent/dsops_agent/trust/store.py"
REGISTRY = "controller/dsops_controller/fleet/registry.py"
UPDATER = "agent/dsops_agent/trust/updater.py"
TUF_DOCUMENTS = "tuf/api/_payload.py"
TUF_RULES = "tuf/ngclient/_internal/trusted_metadata_set.py"

_ATTACKS = "tests/security/test_directive_attacks.py"
BROKER = f"{_ATTACKS}::test_a_directive_that_is_not_for_this_device_now_is_refused"
THIEF = f"{_ATTACKS}::test_a_thief_of_every_online_key_installs_nothing_but_approved_releases"
MASS_PUSH = f"{_ATTACKS}::test_a_mass_push_reaches_the_signed_share_of_a_fleet_and_a_wider_ring_needs_the_policys_key"
FLEET_METADATA = f"{_ATTACKS}::test_trust_metadata_of_another_fleet_is_refused"
WITHHELD = f"{_ATTACKS}::test_whoever_withholds_newer_metadata_gets_no_replaced_director_believed"
RULES = "tests/unit/core/test_directive_rules.py"
SLOTS = "tests/unit/core/test_trust_rules.py"
OTHER_BYTES = f"{SLOTS}::test_a_stolen_controller_cannot_choose_other_bytes"
WIRE = "tests/unit/core/test_wire_values.py"
STORE = "tests/unit/agent_trust/test_trust_store.py"
METADATA = "tests/security/test_metadata_attacks.py"
INSTALL = "tests/security/test_trusted_install.py"
REPORTS = "tests/integration/controller_trust/test_registry.py"
REPEATED = "test_the_retained_directive_again_is_no_refusal_even_when_it_has_expired_or_its_key_went"
POWER_CUT = "test_a_power_cut_around_the_acceptance_neither_loses_nor_repeats_the_directive"
EXCHANGE = "tests/integration/controller_trust/test_enrolment_exchange.py"
LIFE = "tests/integration/controller_trust/test_certificate_life.py"
RENEWAL = "tests/integration/ingest/test_identity_grpc.py"
INGEST = "tests/integration/ingest/test_ingest_grpc.py"
UNFIT = "tests/scenario/test_unfit_bundles.py"
PUSHES = "tests/integration/controller_trust/test_bundle_store.py"
COPY = "tests/integration/controller_trust/test_copied_device.py"


def _directive(name: str, before: str, after: str, *killers: str) -> Mutant:
    return Mutant(name, DIRECTIVE, before, after, killers)


def _slot(name: str, before: str, after: str, *killers: str) -> Mutant:
    return Mutant(name, TRUST, before, after, killers)


DIRECTIVES = (
    _directive(
        "director's signature",
        "Verdict(good >= case.recipient.threshold, text)",
        "Verdict(True, text)",
        f"{BROKER}[forged-",
        f"{BROKER}[renumbered-",
        f"{BROKER}[by_a_director_who_was_replaced-",
        f"{RULES}::test_a_changed_payload_is_refused",
    ),
    _directive(
        "director's threshold",
        "Verdict(good >= case.recipient.threshold, text)",
        "Verdict(good >= 1, text)",
        f"{BROKER}[by_one_director_of_two-",
        f"{RULES}::test_a_threshold_counts_distinct_keys",
    ),
    Mutant(
        "DSSE: the signature itself",
        DSSE,
        "if s.keyid in keys and _is_valid(keys[s.keyid], s, message))",
        "if s.keyid in keys)",
        (f"{BROKER}[renumbered-", f"{RULES}::test_a_changed_payload_is_refused"),
    ),
    Mutant(
        "DSSE: the payload's type",
        DSSE,
        "if envelope.payload_type != payload_type:",
        "if False:",
        (f"{BROKER}[of_another_type-", f"{WIRE}::test_a_signed_directive_is_no_report"),
    ),
    Mutant(
        "DSSE: the length of an envelope",
        DSSE,
        "if len(data) > MAX_ENVELOPE_BYTES:",
        "if False:",
        (f"{BROKER}[too_long-", f"{RULES}::test_a_dishonest_one_is_refused_by_a_rule_of_its_own"),
    ),
    _directive(
        "fleet",
        'Verdict(said == mine, f"it is for fleet',
        'Verdict(True, f"it is for fleet',
        f"{BROKER}[of_another_fleet-",
    ),
    _directive(
        "device", 'Verdict(said == mine, f"it is for {said}', 'Verdict(True, f"it is for {said}', f"{BROKER}[misrouted-"
    ),
    _directive("seq", "case.directive.seq > case.last_seq", "True", f"{BROKER}[replayed-", f"{BROKER}[numbered_alike-"),
    _directive(
        "seq: strictly",
        "case.directive.seq > case.last_seq",
        "case.directive.seq >= case.last_seq",
        f"{BROKER}[numbered_alike-",
    ),
    _directive("leap of seq", "Verdict(leap <= MAX_LEAP,", "Verdict(True,", f"{BROKER}[leaping-"),
    _directive("expiry", "Verdict(case.now < said,", "Verdict(True,", f"{BROKER}[held_back-"),
    _directive(
        "expiry: at the very moment", "Verdict(case.now < said,", "Verdict(case.now <= said,", f"{BROKER}[held_back-"
    ),
    Mutant(
        "fleet of the metadata",
        INTAKE,
        "if director.fleet != self._device.fleet:",
        "if False:",
        (FLEET_METADATA,),
    ),
    Mutant(
        "seq from the journal",
        INTAKE,
        "last_seq=self._journal.seq()",
        "last_seq=0",
        (f"{BROKER}[replayed-",),
    ),
    Mutant(
        "newer metadata on their way",
        INTAKE,
        "return bool(self._missing.get(model_of(model)))",
        "return False",
        (WITHHELD, f"{_ATTACKS}::test_a_release_is_not_given_up_while_newer_metadata_are_on_their_way"),
    ),
    Mutant(
        "newer metadata on their way, while a directive is judged",
        INTAKE,
        "if any(self.is_behind(model) for model in pending.models):",
        "if False:",
        (WITHHELD,),
    ),
    Mutant(
        "seq durable before acting",
        JOURNAL,
        "self._write(sql, (SEQ, directive.seq))",
        "pass",
        (f"{BROKER}[replayed-", f"{INSTALL}::{POWER_CUT}"),
    ),
    Mutant(
        "digest durable before acting",
        JOURNAL,
        "self.set(_DIRECTIVE, digest)",
        "pass",
        (f"{INSTALL}::{REPEATED}",),
    ),
)

BUNDLES = (
    _slot(
        "digest",
        'Verdict(wanted == signed, f"wanted {wanted[:12]}',
        'Verdict(True, f"wanted {wanted[:12]}',
        f"{THIEF}[other_bytes-",
    ),
    _slot(
        "length",
        'Verdict(wanted == signed, f"wanted {wanted} bytes',
        'Verdict(True, f"wanted {wanted} bytes',
        f"{THIEF}[another_length-",
    ),
    _slot("model", "Verdict(case.facts.model == case.model,", "Verdict(True,", f"{THIEF}[of_another_model-"),
    _slot("release", 'Verdict(wanted == signed, f"wanted release', 'Verdict(True, f"wanted release', OTHER_BYTES),
    _slot(
        "hardware", "Verdict(not classes or case.hardware in classes,", "Verdict(True,", f"{THIEF}[for_other_hardware-"
    ),
    _slot(
        "policy's model",
        "Verdict(case.policy.model == case.model,",
        "Verdict(True,",
        f"{THIEF}[by_the_policy_of_another_model-",
    ),
    _slot("floor", "Verdict(release >= floor,", "Verdict(True,", f"{THIEF}[below_the_floor-"),
    _slot(
        "floor: the release itself",
        "Verdict(release >= floor,",
        "Verdict(release > floor,",
        f"{SLOTS}::test_a_release_below_the_floor_is_refused",
    ),
    _slot(
        "listed release", 'Verdict(case.ring is not None, f"release', 'Verdict(True, f"release', f"{THIEF}[not_listed-"
    ),
    _slot("ring", "Verdict(ring.admits(case.device),", "Verdict(True,", f"{THIEF}[outside_its_ring-", MASS_PUSH),
    _slot("ring's fraction", "self.draw(device) < self.fraction * 2**64", "self.fraction > 0", MASS_PUSH),
    _slot(
        "ring's salt",
        'f"{self.salt}|{device}"',
        'f"{device}"',
        f"{SLOTS}::test_the_draw_is_the_first_eight_bytes_of_the_digest",
    ),
)

REPORT_RULES = (
    Mutant(
        "report's signature",
        MESSAGES,
        "payload = dsse.verify(data, STATE_TYPE, {dsse.key_id(key): key for key in keys})",
        "payload = dsse.decode(data, STATE_TYPE).content()",
        (
            f"{REPORTS}::test_a_forged_or_misdirected_report_is_refused_and_recorded_once_an_hour",
            f"{WIRE}::test_a_report_is_believed_only_with_a_key_of_the_device",
        ),
    ),
    Mutant(
        "a report by the key of a certificate that was revoked",
        CERTIFICATES,
        "if row.revoked_ms is None and row.expires_ms > ends_ms",
        "if row.expires_ms > ends_ms",
        (f"{LIFE}::test_reports_count_by_the_keys_of_every_certificate_that_counts",),
    ),
    Mutant(
        "report's device",
        MESSAGES,
        "if observed.device != device:",
        "if False:",
        (f"{REPORTS}::test_a_forged_or_misdirected_report_is_refused_and_recorded_once_an_hour",),
    ),
    Mutant(
        "report's chain",
        MESSAGES,
        "if said.counter == last.counter + 1 and said.previous != last.digest:",
        "if False:",
        (
            f"{REPORTS}::test_a_report_of_another_line_is_refused",
            f"{COPY}::test_a_copy_that_reports_after_the_device_is_a_fork",
        ),
    ),
    Mutant(
        "two reports of one number",
        MESSAGES,
        "if said.counter == last.counter:",
        "if False:",
        (
            f"{REPORTS}::test_a_report_of_another_line_is_refused",
            f"{COPY}::test_a_copy_that_reports_after_the_device_is_a_fork",
        ),
    ),
    Mutant(
        "replayed report",
        MESSAGES,
        "if said.counter < last.counter:",
        "if False:",
        (f"{REPORTS}::test_a_replayed_report_is_refused_and_the_retained_copy_of_the_newest_is_not",),
    ),
    Mutant(
        "chain at the controller",
        REGISTRY,
        "if not continues(report, _last_report(connection, row.id)):",
        "if not continues(report, None):",
        (f"{REPORTS}::test_a_replayed_report_is_refused_and_the_retained_copy_of_the_newest_is_not",),
    ),
    Mutant(
        "digest of a report durable before it is sent",
        JOURNAL,
        "self.set(_REPORT, sha256_hex(payload))",
        "pass",
        (f"{COPY}::test_a_restarted_device_continues_its_chain",),
    ),
)

REFUSED_ONCE = (
    Mutant(
        "a refusal's memory across restarts",
        REFUSALS,
        "self.journal.put_refusal(row, MOST_STANDING)",
        "pass",
        (f"{INSTALL}::test_a_refusal_is_told_once_stands_in_reports_and_goes_with_the_next_acceptance",),
    ),
    Mutant(
        "the same refusal again",
        REFUSALS,
        "if _is_same(self._standing.get(source), row):",
        "if False:",
        (f"{BROKER}[misrouted-",),
    ),
    Mutant(
        "the budget of refusals",
        REFUSALS,
        "if self._told >= self.per_hour:",
        "if False:",
        (f"{INSTALL}::test_thousands_of_forgeries_are_counted_not_kept",),
    ),
)

TUF = (
    Mutant(
        "TUF: expiry of the timestamp",
        TUF_RULES,
        "if self.timestamp.is_expired(self.reference_time):",
        "if False:",
        (f"{STORE}::test_frozen_repository_is_refused_once_it_expired",),
    ),
    Mutant(
        "expiry of the very head that was accepted",
        TRUST_STORE,
        "            view.require_current(self.now(), *roles_of(model))",
        "            pass",
        (f"{STORE}::test_frozen_repository_is_refused_once_it_expired",),
    ),
    Mutant(
        "TUF: threshold of signatures",
        TUF_DOCUMENTS,
        "return len(self.signed) >= self.threshold",
        "return len(self.signed) >= 1",
        (f"{STORE}::test_one_of_two_targets_keys_is_not_enough",),
    ),
    Mutant(
        "TUF: signatures",
        TUF_DOCUMENTS,
        "return len(self.signed) >= self.threshold",
        "return True",
        (f"{STORE}::test_role_forged_with_stolen_online_keys_is_refused", f"{STORE}::test_forged_root_is_refused"),
    ),
    Mutant(
        "TUF: hash",
        TUF_DOCUMENTS,
        "if observed_hash != exp_hash:",
        "if False:",
        (f"{STORE}::test_tampered_small_target_is_refused",),
    ),
    Mutant(
        "TUF: length",
        UPDATER,
        "if len(data) > length:",
        "if False:",
        (f"{STORE}::test_endless_timestamp_is_refused",),
    ),
    Mutant(
        "floors of versions",
        "agent/dsops_agent/trust/floors.py",
        "and fact.version < floor.version:",
        "and False:",
        (
            f"{METADATA}::test_replay_after_the_metadata_were_wiped",
            f"{METADATA}::test_role_rolled_back_with_both_online_keys_after_the_metadata_were_wiped",
        ),
    ),
    Mutant(
        "trusted time",
        "agent/dsops_agent/trust/trusted_time.py",
        "return max(system, built, known.floor if known else built)",
        "return system",
        (f"{METADATA}::test_freeze_of_a_device_whose_clock_was_set_back",),
    ),
    Mutant(
        "expiry of what was accepted before",
        UPDATER,
        "if self._trusted_set[name].is_expired(now):",
        "if False:",
        ("tests/security/test_offline_and_expired.py::test_probation_ends_well_offline",),
    ),
)

IDENTITIES = (
    Mutant(
        "token's device",
        TOKENS,
        "if row is None or row.device != name:",
        "if row is None:",
        (f"{EXCHANGE}::test_a_token_is_good_for_its_own_name_only",),
    ),
    Mutant(
        "token's expiry",
        TOKENS,
        "if row.expires_ms <= to_ms(now):",
        "if False:",
        (f"{EXCHANGE}::test_an_expired_token_is_refused_also_for_the_same_key",),
    ),
    Mutant(
        "token's one key",
        TOKENS,
        "return Token.SAME_KEY if is_mine else Token.OTHER_KEY",
        "return Token.SAME_KEY",
        (
            f"{EXCHANGE}::test_the_same_key_is_answered_again_and_another_is_not",
            f"{EXCHANGE}::test_of_many_keys_that_show_one_token_at_once_one_wins",
        ),
    ),
    Mutant(
        "certificate's device",
        IDENTITY,
        "if found.device != caller.device:",
        "if False:",
        (f"{LIFE}::test_a_certificate_of_another_device_is_not_admitted_under_this_name",),
    ),
    Mutant(
        "certificate's revocation",
        IDENTITY,
        "if found.is_revoked:",
        "if False:",
        (f"{RENEWAL}::test_a_device_renews_and_its_old_certificate_ends_when_the_new_one_is_used",),
    ),
    Mutant(
        "certificate's expiry on an open connection",
        IDENTITY,
        "if now >= caller.expires:",
        "if False:",
        (f"{LIFE}::test_an_expired_certificate_is_not_admitted_on_an_open_connection",),
    ),
    Mutant(
        "device's state",
        IDENTITY,
        "if found.state != Device.ACCEPTED:",
        "if False:",
        (f"{INGEST}::test_only_accepted_devices_may_speak",),
    ),
    Mutant(
        "device's state at its renewal",
        "controller/dsops_controller/fleet/renewal.py",
        "if state != Device.ACCEPTED:",
        "if False:",
        (f"{LIFE}::test_who_was_shut_out_meanwhile_gets_no_certificate",),
    ),
    Mutant(
        "device's standing at every message of a stream",
        GATE,
        "                await self._check(visit)\n                if not reading.done():",
        "                if not reading.done():",
        (
            f"{INGEST}::test_a_suspended_device_loses_its_open_stream_without_a_word",
            f"{RENEWAL}::test_a_suspension_counts_from_the_next_message_on",
        ),
    ),
)

PREFLIGHT = (
    Mutant(
        "preflight",
        "agent/dsops_agent/install/fitness.py",
        "        preflight.check(needs, facts)\n",
        "",
        (f"{UNFIT}::test_an_unfit_bundle_is_refused_before_a_chunk_is_asked_for",),
    ),
    Mutant(
        "memory of the moment",
        "agent/dsops_agent/install/fitness.py",
        "        preflight.check_memory_now(needs, memory)\n",
        "",
        (f"{UNFIT}::test_short_memory_and_a_silent_runtime_are_waited_for",),
    ),
    Mutant(
        "signed needs of a bundle that came",
        "agent/dsops_agent/install/steps.py",
        "            self._check_needs(row, source)\n",
        "",
        (f"{UNFIT}::test_a_hostile_document_of_needs_is_refused",),
    ),
    Mutant(
        "operators of a pushed payload",
        "controller/dsops_controller/bundles.py",
        "        _check_operators(bundle)\n",
        "",
        (f"{PUSHES}::test_a_manifest_that_hides_an_operator_is_not_taken",),
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *DIRECTIVES,
    *BUNDLES,
    *REPORT_RULES,
    *REFUSED_ONCE,
    *TUF,
    *IDENTITIES,
    *PREFLIGHT,
    *RUNTIME,
)
