"""Print what the image needs of what pyproject.toml lists, for pip: one requirement a line.

The layer of dependencies is made anew when this text changes, not when our code or the app's configuration does.
"""

import argparse
import tomllib
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--extras", default="", help="extras, separated by spaces")
extras = parser.parse_args().extras.split()

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
for requirement in wanted:
    # The simulation engine, 220 MB, is for one machine: here clients are SuperNodes.
    print(requirement.replace("flwr[simulation]", "flwr"))
