"""Register the keys in /run/secrets at the SuperLink; those that it knows stay as they are."""

from pathlib import Path

from flowerpress.deployment.connection import Connection
from flowerpress.errors import RunError

superlink = Connection.of_user("superlink")
for key in sorted(Path("/run/secrets").glob("*.pub")):
    try:
        print(f"{key.stem} is SuperNode {superlink.register(key)}")
    except RunError as error:
        if "already in use" not in str(error):
            raise
        print(f"{key.stem} is registered")
