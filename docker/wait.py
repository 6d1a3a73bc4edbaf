"""Wait until so many SuperNodes are online, two minutes at most."""

import sys
import time

from flowerpress.deployment.connection import Connection

expected, superlink, end = int(sys.argv[1]), Connection.of_user("superlink"), time.monotonic() + 120
while (found := sum(node["status"] == "online" for node in superlink.nodes())) < expected:
    if time.monotonic() > end:
        sys.exit(f"expected {expected} SuperNodes online, found {found}; see `docker compose logs`")
    time.sleep(1)
