"""Objects of S3 and Google Cloud Storage, by obstore: the size first, then ranges of one and the same object.

Which objects may be asked for is decided before (`datasets/buckets.py`). Nothing of the environment is used unless the admin
allows it: obstore would take keys and endpoints from there by itself. Its errors name hosts and headers: none is passed on.
The client follows redirects of the endpoint that the admin chose, from https to plain http never; it cannot be told not to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from luthier.seams import Fetched, NotFetched

_PIP = 'pip install "luthier[cloud]"'


@dataclass(frozen=True)
class BucketAccess:
    """With what buckets are read. Without keys, and without `ambient`, requests are not signed: public buckets only."""

    s3_endpoint: str = ""
    s3_region: str = "us-east-1"
    s3_key: tuple[str, str] | None = field(default=None, repr=False)
    """Access key id and secret access key."""
    gcs_service_account: Path | None = None
    ambient: bool = False
    """Whether the machine's own rights count where no keys are given: environment, files, metadata service."""


@dataclass(frozen=True)
class BucketPace:
    """How long things may take."""

    connect_s: float = 10
    request_s: float = 120
    """One range: a server that is slower than `range_bytes` in this time is left."""
    total_s: float = 6 * 3600
    range_bytes: int = 8 * 2**20
    retries: int = 3


class BucketFetcher:
    """Fetches `s3://bucket/key` and `gs://bucket/key`; safe in threads."""

    def __init__(self, access: BucketAccess | None = None, pace: BucketPace | None = None) -> None:
        self._access = access or BucketAccess()
        self._pace = pace or BucketPace()

    @contextmanager
    def fetch(self, url: str, *, max_bytes: int, redirects: int = 0) -> Generator[Fetched]:  # noqa: ARG002  # the seam's
        """An object as it is now; one that is replaced meanwhile is refused. Raises: NotFetched, also on the way."""
        scheme, _, rest = url.partition("://")
        bucket, _, key = rest.partition("/")
        ends = time.monotonic() + self._pace.total_s
        store = self._store(scheme, bucket)
        found = _told(lambda: _obstore().head(store, key))
        size = int(found["size"])
        if size > max_bytes:
            raise NotFetched(f"the file is larger than {max_bytes:,} bytes")
        if not found["e_tag"]:
            raise NotFetched("the storage gives the object no ETag, so that nothing says whether it stays the same")
        yield Fetched(size, self._ranges(store, key, found, ends))

    def _ranges(self, store: Any, key: str, found: Any, ends: float) -> Iterator[bytes]:
        size = int(found["size"])
        for start in range(0, size, self._pace.range_bytes):
            end = min(size, start + self._pace.range_bytes)
            if time.monotonic() > ends:
                raise NotFetched(f"it took longer than {self._pace.total_s:g} s")
            # If-Match: what is put together from ranges must be one object.
            options: Any = {"range": (start, end), "if_match": found["e_tag"]}
            chunk = bytes(_told(lambda options=options: _obstore().get(store, key, options=options).bytes()))
            if len(chunk) != end - start:
                raise NotFetched("the storage sent another range than it was asked for")
            yield chunk

    def _store(self, scheme: str, bucket: str) -> Any:
        if scheme == "s3":
            return _told(lambda: self._s3(bucket))
        if scheme == "gs":
            return _told(lambda: self._gcs(bucket))
        raise NotFetched("this is no address of an object")

    def _s3(self, bucket: str) -> Any:
        access, config = self._access, {}
        endpoint = access.s3_endpoint or ("" if access.ambient else f"https://s3.{access.s3_region}.amazonaws.com")
        if endpoint:
            config = {"endpoint": endpoint, "region": access.s3_region, "virtual_hosted_style_request": False}
        provider = None
        if access.s3_key is not None:
            provider = _Keys(*access.s3_key)
        if provider is not None or not access.ambient:
            config["skip_signature"] = provider is None
        return _stores().S3Store(
            bucket,
            client_options=self._client(plain=endpoint.startswith("http://")),
            retry_config=self._retries(),
            credential_provider=provider,
            **config,
        )

    def _gcs(self, bucket: str) -> Any:
        config: dict[str, Any] = {"client_options": self._client(plain=False)}
        path = self._access.gcs_service_account
        if path is not None:
            account = _account(path)
            # Only an emulator's account names an endpoint of its own.
            config = {"service_account_key": account, "client_options": self._client(plain='"http://' in account)}
        elif not self._access.ambient:
            config["skip_signature"] = True
        return _stores().GCSStore(bucket, retry_config=self._retries(), **config)

    def _client(self, *, plain: bool) -> Any:
        return {
            "connect_timeout": timedelta(seconds=self._pace.connect_s),
            "timeout": timedelta(seconds=self._pace.request_s),
            "allow_http": plain,
        }

    def _retries(self) -> Any:
        return {"max_retries": self._pace.retries, "retry_timeout": timedelta(seconds=self._pace.request_s)}


class _Keys:
    """Gives obstore the platform's key, and never anything of the environment."""

    def __init__(self, key_id: str, secret: str) -> None:
        self._given = {"access_key_id": key_id, "secret_access_key": secret, "token": None, "expires_at": None}

    def __call__(self) -> Any:
        return self._given


def _account(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise NotFetched("the platform's service account for gs:// cannot be read; your admin can mend that") from None


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise NotFetched(f"this server has no client for buckets; your admin can install one: {_PIP}") from None
    return obstore


def _stores() -> Any:
    _obstore()
    import obstore.store

    return obstore.store


def _told(ask: Callable[[], Any]) -> Any:
    """What the client answers. Raises: NotFetched in words of our own."""
    exceptions = _exceptions()
    try:
        return ask()
    except FileNotFoundError:
        raise NotFetched("there is no such object") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise NotFetched("the storage does not let the platform read it") from None
    except exceptions.PreconditionError:
        raise NotFetched("the object was replaced while it was read") from None
    except TimeoutError:
        raise NotFetched("the storage fell silent") from None
    except (exceptions.BaseError, ValueError, OSError):
        raise NotFetched("the storage cannot be reached, or its answer broke off") from None


def _exceptions() -> Any:
    _obstore()
    import obstore.exceptions

    return obstore.exceptions
