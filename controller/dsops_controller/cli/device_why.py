"""``dsops device why``: which releases a device would accept, and the rules that decide it."""

from collections.abc import Sequence
from typing import Any

from dsops.errors import InvalidInput, NotFound
from dsops_controller.cli import output
from dsops_controller.client import Client

Row = dict[str, Any]
_SIGN = {True: "holds", False: "BROKEN", None: "open"}


def show(client: Client, device: str, what: str, form: output.Format) -> None:
    """Print the answer about every release, or every rule about the one that ``what`` (``MODEL/RELEASE``) names.

    Raises:
        InvalidInput: ``what`` is neither empty, a model nor a release.
        NotFound: The model's owners signed no such release.
    """
    model, _, release = what.partition("/")
    if release and not release.isdecimal():
        raise InvalidInput(f"{what} is not MODEL/RELEASE", hint=f"for example: dsops device why {device} digits/2")
    answers = client.why(device, model or None)
    if release:
        answers = [answer for answer in answers if answer["release"] == int(release)]
        if not answers:
            raise NotFound(f"the owners of {model} signed no release {release}", hint=f"see: dsops device why {device}")
        _show_rules(answers, form)
        return
    for answer in answers:
        answer["verdict"] = "accepts" if answer["accepted"] else "refuses"
        answer["because"] = _because(answer)
        answer["runs"] = "runs" if answer["active"] else ""
    columns = {"path": "BUNDLE", "verdict": device, "because": "BECAUSE", "runs": "NOW"}
    output.rows(answers, columns, form)


def _because(answer: Row) -> str:
    """Return the first broken rule with its facts, or those of the rules that admit the device."""
    broken = next((rule for rule in answer["rules"] if rule["ok"] is False), None)
    if broken:
        return f"{broken['rule']}: {broken['text']} ({broken['code']})"
    return "; ".join(rule["text"] for rule in answer["rules"] if rule["rule"] in ("floor", "ring"))


def _show_rules(answers: Sequence[Row], form: output.Format) -> None:
    rules = [
        {"bundle": answer["path"], **rule, "state": _SIGN[rule["ok"]]} for answer in answers for rule in answer["rules"]
    ]
    columns = {"bundle": "BUNDLE", "rule": "RULE", "state": "STATE", "text": "FACTS", "code": "A BREACH IS"}
    output.rows(rules, columns, form)
