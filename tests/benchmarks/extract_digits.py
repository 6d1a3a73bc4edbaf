"""Latents of digits, gathered federatedly; what `make extract` does. ::

a CNN, trained by ten clients in the simulation engine ─► their images in HDF5 files ─► ten SuperNodes extract;
one is killed, and replaced ─► one Zarr group, compared with what one process makes of all files
─► a linear probe, trained by ten clients; a picture of the latents

extract_digits.py [CLIENTS]
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from flowerpress.apps import launch, report
from flowerpress.apps.config import Config
from flowerpress.apps.data import Partitioning, client_images
from flowerpress.apps.encoders import Digits
from flowerpress.apps.gathered import ZARR
from flowerpress.apps.latents import with_weights
from flowerpress.apps.report import summary_of
from flowerpress.apps.results import read_rounds
from flowerpress.apps.runconfig import as_text, defaults
from flowerpress.deployment.local import Federation
from flowerpress.extraction import build_loader, calc_latent
from tests.benchmarks.timing import claim, console

ROOT = Path(__file__).resolve().parents[2]
BOUND = 1e-3
SECONDS = 900  # Flower takes a minute to give up a node


def main() -> None:
    """Do it all; results stay in a folder below ``runs``."""
    clients = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    folder = launch.new_folder(ROOT / "runs")
    console.print(f"training an encoder: {clients} clients in the simulation engine")
    trained = simulated(folder / "train", clients, {"num-server-rounds": 10})
    console.print(f"accuracy {trained['accuracy']:.2%}\nextracting: {clients} SuperNodes, of which one is killed")
    options = write_images(folder, clients) | {"encoder": str(folder / "train" / "model.fpb")}
    failures = extract(folder / "latents", clients, options)
    console.print(report.table(folder / "latents"))
    group: Any = zarr.open_group(folder / "latents" / ZARR, mode="r")
    found, expected = group["latents"][...], np.concatenate(list(central(options, clients)))
    claim("replies that failed, of the client that was killed", failures, least=1)
    claim("rows, of those that one process makes", len(found) / len(expected), least=1)
    claim("largest difference to those", float(abs(found - expected).max()), most=BOUND)
    probe = simulated(folder / "probe", clients, {"model": "linear", "encoder": options["encoder"]})
    claim("accuracy of a linear probe, beside the network's own", probe["accuracy"] / trained["accuracy"], least=0.95)
    console.print(f"probe {probe['accuracy']:.2%}; picture: {report.plot(folder / 'latents')}")


def simulated(folder: Path, clients: int, config: dict[str, Any]) -> dict[str, Any]:
    """Run the app in Flower's simulation engine; return its summary."""
    launch.simulate(ROOT, folder, clients=clients, run_config=as_text(config), on_round=lambda _: None)
    return summary_of(folder)


def write_images(folder: Path, clients: int) -> dict[str, Any]:
    """Write the images of each client to an HDF5 file; return the configuration that says where they are."""
    partitioning = Partitioning.of(Config.read(defaults(ROOT)), clients)
    for client in range(clients):
        with h5py.File(folder / f"client-{client}.h5", "w") as file:
            file["train"] = client_images(partitioning, client).pixels
    return {"images": str(folder / "client-{partition}.h5")}


def extract(folder: Path, clients: int, options: dict[str, Any]) -> int:
    """Gather latents from SuperNodes; that with most images is killed after its first reply. Return how many failed."""
    folder.mkdir()
    files = [Path(options["images"].replace("{partition}", str(client))) for client in range(clients)]
    victim = max(range(clients), key=lambda client: files[client].stat().st_size)
    config = {"task": "extract", "latent-codec": f"quantize(bound={BOUND}) | entropy", "reply-bytes": 40_000, **options}
    with Federation(clients, folder=folder / "federation") as federation:
        superlink, killed = federation.superlink, False
        run_id = superlink.submit(ROOT, as_text({**config, "output-dir": str(folder)}))
        end = time.monotonic() + SECONDS
        while not superlink.status(run_id)[0].startswith("finished") and time.monotonic() < end:
            if not killed and (folder / "metrics.jsonl").is_file() and read_rounds(folder):
                console.print(f"killing client {victim}; another SuperNode takes its place")
                federation.stop(victim, kill=True)
                federation.start(victim)
                killed = True
            time.sleep(1)
        console.print(f"the run is {superlink.status(run_id)[0]}")
    return int(summary_of(folder)["failures"])


def central(options: dict[str, Any], clients: int) -> Iterator[np.ndarray]:
    """Yield the latents of each client's file, made here."""
    model = with_weights(Config.read({**defaults(ROOT), **options}))
    assert isinstance(model, Digits)
    for client in range(clients):
        _, loader = build_loader(options["images"].replace("{partition}", str(client)), "train", 32)
        yield np.concatenate([calc_latent(model, images, False) for images, _ in loader])


if __name__ == "__main__":
    main()
