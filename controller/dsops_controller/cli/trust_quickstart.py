"""``dsops trust quickstart``: one person, every key in a folder. For a trial."""

from pathlib import Path
from typing import Annotated

import typer

from dsops.ids import model_name
from dsops_controller.cli import output, session


def quickstart(
    keys: Annotated[Path, typer.Option("--keys", help="folder for the offline keys; made if it is not there")],
    server: Annotated[Path, typer.Option("--server", help="the server's state folder")],
    model: Annotated[list[str] | None, typer.Option("--model", help="grant this model, too; repeatable")] = None,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Set up trust for a trial: one person makes every key, signs and publishes; says what it lacks.

    Example: dsops trust quickstart --keys keys --server state --model digits
    """
    ceremony = session.optional("dsops_controller.trust.ceremony", "controller")
    doctor = session.optional("dsops_controller.trust.doctor", "controller")
    models = [model_name(name) for name in model or ()]
    ceremony.init(keys, server)
    for name in models:
        ceremony.grant(keys, server, name)
    signers = doctor.signers_of(ceremony.open_repository(server).published())
    missing = lacks(keys, len(list(keys.glob("*.pem"))), doctor.warnings(signers))
    sentence = f"trust is set up; the keys are in {keys}: keep them offline\nfor a trial only, because:\n"
    sentence += "\n".join(f"  - {line}" for line in missing)
    sentence += "\nfor more than a trial: dsops trust init, with a key for each holder"
    output.done({"keys": str(keys), "models": models, "lacks": missing}, sentence, form)


def lacks(folder: Path, count: int, warnings: list[str]) -> list[str]:
    """Return what a set-up by one person lacks against a ceremony with several holders."""
    return [
        f"all {count} keys lie in one folder: whoever copies {folder} decides what devices run",
        "they are files without a passphrase, not on tokens",
        "nobody else looked at what was signed",
        *warnings,
    ]
