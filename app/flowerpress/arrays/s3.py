"""Buckets, as obstore has them: with limits on how long they may say nothing, and errors that can be told.

Endpoint, region and keys come from the environment, as for other programs: ``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``; requests are not signed if ``AWS_SKIP_SIGNATURE`` is ``true``.
"""

import os
import sys
from datetime import timedelta
from typing import Any

from flowerpress.errors import ConfigError

SILENT = timedelta(seconds=12)  # that a server may say nothing, or take for a part of what is sent
_RETRYING = timedelta(seconds=14)  # a server that refuses is asked three times more, a silent one once


def bucket(name: str, most: timedelta = SILENT) -> Any:  # noqa: ANN401 - obstore is imported when it is first used
    """Return a bucket whose requests take at most so long; ConfigError if obstore is not installed."""
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ConfigError(f"s3://{name}: expected obstore; pip install 'flowerpress[s3]'") from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    return S3Store(
        name,
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "read_timeout": SILENT,
            "timeout": most,
        },
        retry_config={"max_retries": 3, "retry_timeout": _RETRYING},
    )


def is_failure(error: BaseException) -> bool:
    """Tell whether an error is a bucket's, or was: obstore's are no OSErrors."""
    exceptions = sys.modules.get("obstore.exceptions")
    return exceptions is not None and any(isinstance(e, exceptions.BaseError) for e in (error, error.__cause__))


def words(error: BaseException) -> str:
    """Return what an error of a bucket says, without the request and the retries that obstore appends."""
    said = " ".join(str(error).split("\n\n", 1)[0].split())
    return f"{type(error).__name__}: {said}"
