"""``dsops model``: from a trained network to a quantized one that is known to be right."""

from pathlib import Path
from typing import Annotated

import typer

from dsops_controller.cli import output, session

app = typer.Typer(help="Build quantized models.", no_args_is_help=True)


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="folder that holds bundle.toml, or the file itself")],
    to: Annotated[Path, typer.Option("--to", help="folder for the result; made anew")] = Path("build/model"),
    form: output.Output = output.Format.TABLE,
) -> None:
    """Convert, quantize and evaluate a model as its bundle.toml says.

    Example: dsops model build firmware_bundles/digits --to built

    Ends with exit code 7 and writes nothing when the quantized model is worse than the recipe's gate allows.
    """
    recipes = session.optional("dsops_controller.build.recipe", "build")
    result = recipes.build_model(recipe, to)
    output.facts({"folder": str(to), **result.as_dict()}, form)
