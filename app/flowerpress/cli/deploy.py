"""``flowerpress deploy``: federations of SuperNodes, here and on other machines."""

import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from flowerpress.cli.shared import AsFormat, Format, explain, say
from flowerpress.deployment.local import Federation, Security, node_configs

commands = typer.Typer(help="SuperLinks and SuperNodes, here and on other machines.", no_args_is_help=True)


@commands.command()
@explain
def local(
    nodes: Annotated[int, typer.Option(min=1, help="SuperNodes.")] = 2,
    security: Annotated[
        Security, typer.Option(help="none; TLS; or TLS, and a key for each SuperNode.")
    ] = Security.NONE,
    state: Annotated[
        Path | None,
        typer.Option(help="Folder for logs, runs, caches, certificates and keys, which stay; else they go at the end."),
    ] = None,
    node_config: Annotated[
        list[str] | None,
        typer.Option(help="What SuperNodes find in their configuration: key=value, with {partition} for the number."),
    ] = None,
    output: AsFormat = Format.TABLE,
) -> None:
    """Start a SuperLink and SuperNodes on loopback, and keep them until Ctrl-C.

    Run an app on them from another shell, as the first lines say.
    """
    with tempfile.TemporaryDirectory(prefix="flowerpress-") as scratch:
        folder = (state or Path(scratch)).resolve()
        _end_like_ctrl_c()
        try:
            with Federation(
                nodes, folder=folder, security=security, configs=node_configs(node_config or [], nodes)
            ) as federation:
                superlink = federation.superlink
                where = f"SuperLink on {superlink.address}, {nodes} SuperNodes; logs are in {folder}"
                command = f"FLWR_HOME={superlink.home} flowerpress run . --connection {superlink.name}"
                about = {"address": superlink.address, "home": superlink.home, "connection": superlink.name}
                say(output, f"{where}\n{command}", folder=folder, **about)
                while True:
                    federation.check()
                    time.sleep(1)
        except KeyboardInterrupt:
            say(output, "stopped", stopped=True)


@commands.command()
@explain
def keys(
    folder: Annotated[Path, typer.Argument(help="Where they go; what is there is kept.")],
    host: Annotated[list[str], typer.Option(help="A name or address by which SuperNodes reach the SuperLink.")],
    nodes: Annotated[int, typer.Option(min=0, help="SuperNodes that have keys.")] = 0,
    days: Annotated[int, typer.Option(min=1, help="How long the SuperLink's certificate is valid, up to 3650.")] = 365,
    output: AsFormat = Format.TABLE,
) -> None:
    """Make a certificate authority, the SuperLink's certificate, the secret of its programs, and keys of SuperNodes.

    Call it again for more SuperNodes, other hosts, or another year: what is
    there is kept, but for the SuperLink's certificate. Give each machine its own
    files: ca.crt to all, node-<n> and node-<n>.secret to that SuperNode, server.*
    and superexec.secret to the SuperLink, ca.key to none.
    """
    from flowerpress.deployment.credentials import Credentials

    made = Credentials.make(folder, host, nodes, days=days)
    words = f"certificate for {', '.join(host)} and {nodes} keys in {made.folder}"
    say(output, words, folder=made.folder, hosts=host, nodes=nodes)


def _end_like_ctrl_c() -> None:
    """End on SIGTERM as on Ctrl-C: with all that was started."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
