"""``dsops site``: budgets of links that devices share."""

from typing import Annotated

import typer

from dsops_controller.cli import output, session

app = typer.Typer(help="Bound what the devices of a site fetch together.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="site, as the key transfer.site in agent.toml names it")]


@app.command("set")
def set_(
    site: Name,
    bytes_per_s: Annotated[int, typer.Option("--bytes-per-s", min=0, help="bytes a second; 0: no limit")] = 0,
    bytes_per_day: Annotated[int, typer.Option("--bytes-per-day", min=0, help="bytes a day; 0: no limit")] = 0,
    context: session.ContextFile = session.DEFAULT_CONTEXT,
    form: output.Output = output.Format.TABLE,
) -> None:
    """Give a site a budget; each of its devices gets an equal share by its next directive.

    Example: dsops site set plant-7 --bytes-per-s 250000 --bytes-per-day 2000000000
    """
    with session.connected(context) as client:
        made = client.set_site(site, bytes_per_s, bytes_per_day)
    each = made["each"]
    share = f"{each['bytes_per_s'] or 'any'} bytes a second, {each['bytes_per_day'] or 'any'} a day for each"
    output.done(made, f"{site}: {share} of {made['devices']} devices", form)


@app.command("list")
def list_(context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE) -> None:
    """List the sites that have a budget, the devices that share it, and the share of each."""
    with session.connected(context) as client:
        sites = client.sites()
    columns = {"name": "SITE", "bytes_per_s": "BYTES/S", "bytes_per_day": "BYTES/DAY", "devices": "DEVICES"}
    shares = {"each.bytes_per_s": "BYTES/S EACH", "each.bytes_per_day": "BYTES/DAY EACH"}
    output.rows(sites, columns | shares, form)


@app.command()
def clear(
    site: Name, context: session.ContextFile = session.DEFAULT_CONTEXT, form: output.Output = output.Format.TABLE
) -> None:
    """Take a site's budget away; its devices keep what their own configuration says."""
    with session.connected(context) as client:
        client.clear_site(site)
    output.done({"name": site}, f"{site} has no budget any more", form)
