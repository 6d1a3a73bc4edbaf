"""The server component of the Flower app; Flower looks for a plain assignment to ``app``."""

import sys
from pathlib import Path

_here = str(Path(__file__).resolve().parent)
if _here not in sys.path:
    sys.path.insert(0, _here)

from flowerpress.apps.server_app import app as _app  # noqa: E402

app = _app
