"""What importing costs: ``import flowerpress``, and the hooks of an app, beside ``import flwr`` and Flower's own."""

import os
import subprocess
import sys
from statistics import median

from tests.benchmarks.timing import claim, console, interleaved, ratio, table

FLOWER, OURS = "import flwr", "import flowerpress"
THEIRS = "from flwr.clientapp import ClientApp; from flwr.serverapp.strategy import FedAvg"
HOOKS = f"{THEIRS}; from flowerpress import PressGrid, press_mod"
BAR = 1.3
CACHED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # as when installed


def imported(code: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=CACHED)


def main() -> None:
    seconds = interleaved({code: lambda code=code: imported(code) for code in ("pass", FLOWER, OURS, THEIRS, HOOKS)})
    shown = table("a fresh interpreter", "", "median s")
    for code, found in seconds.items():
        shown.add_row(code, f"{median(found):.2f}")
    console.print(shown)
    claim("import flowerpress over import flwr", ratio(seconds[OURS], seconds[FLOWER]), most=BAR)
    claim("an app's imports with the hooks over those without", ratio(seconds[HOOKS], seconds[THEIRS]), most=BAR)


if __name__ == "__main__":
    main()
