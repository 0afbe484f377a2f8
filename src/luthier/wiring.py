"""Settings -> Platform: the one place where backends meet features."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from luthier import migrations
from luthier.accounts.access_log import AccessLog
from luthier.accounts.audit import Audit
from luthier.accounts.service import Accounts
from luthier.backends.engines.process import EngineProcess
from luthier.backends.executors.local import LocalExecutor
from luthier.backends.executors.warm import Keep, WarmExecutor
from luthier.backends.fetchers.buckets import BucketAccess, BucketFetcher
from luthier.backends.fetchers.by_scheme import BySchemeFetcher
from luthier.backends.fetchers.https import HttpsFetcher
from luthier.backends.storage.local import LocalStorage
from luthier.bases.service import Bases
from luthier.billing.machine import free_bytes
from luthier.billing.service import Billing
from luthier.database import Database
from luthier.datasets.buckets import prefixes_of
from luthier.datasets.deliveries import Deliveries
from luthier.datasets.importing import Imports
from luthier.datasets.service import Datasets
from luthier.datasets.sources import Sources
from luthier.datasets.types import Room
from luthier.datasets.uploads import Uploads
from luthier.jobs.service import Jobs, JobServices
from luthier.notifications.service import Notifications
from luthier.registry.service import Registry
from luthier.seams import Clock, Executor, Fetcher, InferenceEngine, Storage
from luthier.serving.service import Serving
from luthier.settings import Settings, child_environment


@dataclass(frozen=True)
class Platform:
    """Every service, ready to be called by a face."""

    settings: Settings
    database: Database
    storage: Storage
    accounts: Accounts
    audit: Audit
    access_log: AccessLog
    notifications: Notifications
    billing: Billing
    bases: Bases
    datasets: Datasets
    uploads: Uploads
    imports: Imports
    jobs: Jobs
    registry: Registry
    serving: Serving
    engine: InferenceEngine
    now: Clock

    def close(self) -> None:
        """Finish background work, end the engine process, let go of the database."""
        self.imports.close()
        self.datasets.close()
        self.engine.close()
        self.audit.close()
        self.access_log.close()
        self.database.close()


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def build(
    settings: Settings, *, engine: InferenceEngine | None = None, fetcher: Fetcher | None = None, now: Clock = utc_now
) -> Platform:
    """The embedded platform on one data folder, migrated and with a price book.

    `engine` is for tests: a shipped fake; so is `fetcher`: one that may reach the tests' own servers.
    """
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_path)
    migrations.upgrade(database)
    storage = LocalStorage(settings.data)
    bases = Bases(settings.data / "bases", settings.bases)
    audit = Audit(database, now, settings.data / "audit.head")
    accounts = Accounts(database, now)
    notifications = Notifications(now)
    billing = Billing(database, now)
    billing.first_start()
    room = Room(settings.data / "scratch", settings.max_upload_bytes, settings.inline_upload_bytes)
    datasets = Datasets(database, storage, bases, room, now)
    fetcher = fetcher or _fetcher(settings)
    sources = Sources(fetcher, settings.hub_url, prefixes_of(settings.import_from))
    deliveries = Deliveries(database, storage, room, now, datasets.check_later)
    registry = Registry(database, storage, bases, settings.data / "cache", now)
    engine = engine or EngineProcess(
        settings.data / "run", child_environment(settings), idle_s=settings.engine_idle_s, start_s=settings.engine_start_s
    )
    return Platform(
        settings=settings,
        database=database,
        storage=storage,
        accounts=accounts,
        audit=audit,
        access_log=AccessLog(settings.data / "access.log", settings.access_log_bytes),
        notifications=notifications,
        billing=billing,
        bases=bases,
        datasets=datasets,
        uploads=Uploads(datasets, room, now),
        imports=Imports(datasets, deliveries, fetcher, sources, room),
        jobs=Jobs(database, storage, JobServices(accounts, billing, bases, datasets, registry), now),
        registry=registry,
        serving=Serving(registry, bases, engine),
        engine=engine,
        now=now,
    )


def executor(settings: Settings) -> Executor:
    """Where jobs train: processes of this machine, some of them ready before they are needed."""
    keep = Keep(settings.warm_trainers, settings.warm_idle_s, settings.warm_memory_mb * 2**20)
    return WarmExecutor(LocalExecutor(settings.data, child_environment(settings)), keep, free_bytes)


def _fetcher(settings: Settings) -> Fetcher:
    """What imports fetch with: the guarded way out, and buckets with the platform's own keys."""
    secret = settings.s3_secret_access_key
    key = None if settings.s3_access_key_id is None or secret is None else (settings.s3_access_key_id, secret.get_secret_value())
    access = BucketAccess(
        settings.s3_endpoint, settings.s3_region, key, settings.gcs_service_account, ambient=settings.ambient_credentials
    )
    buckets, https = BucketFetcher(access), HttpsFetcher()
    return BySchemeFetcher({"https": https, "http": https, "s3": buckets, "gs": buckets})
