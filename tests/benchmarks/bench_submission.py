"""What a run waits for before Flower has its app: this repository, with the virtual environment that is in it.

``flwr run`` bundles the folder of an app; ``flowerpress run`` bundles a copy of what Flower may ship of it.
"""

import tempfile
from pathlib import Path
from statistics import median

from flwr.cli.build import build_fab_from_disk

from flowerpress.deployment.sources import copied
from tests.benchmarks.timing import claim, console, interleaved, ratio

ROOT = Path(__file__).parents[2]


def from_copy() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return build_fab_from_disk(copied(ROOT, Path(folder)))


def main() -> None:
    if from_copy() != build_fab_from_disk(ROOT):
        raise SystemExit("expected the same bundle of a copy and of the folder, found two")
    seconds = interleaved({"copy": from_copy, "folder": lambda: build_fab_from_disk(ROOT)}, turns=3)
    files = sum(path.is_file() for path in ROOT.rglob("*"))
    console.print(
        f"{files:,} files in the folder, bundled in {median(seconds['folder']):.1f} s, a copy of what may ship in "
        f"{median(seconds['copy']):.2f} s; the same bytes"
    )
    claim("a copy over the folder", ratio(seconds["copy"], seconds["folder"]), most=0.1)


if __name__ == "__main__":
    main()
