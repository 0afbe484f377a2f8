"""Settings -> Platform: the one place where backends meet features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from luthier import migrations
from luthier.accounts.access_log import AccessLog
from luthier.accounts.audit import Audit
from luthier.accounts.limits import Limiter
from luthier.accounts.passwords import Passwords
from luthier.accounts.quotas import Quota, Quotas
from luthier.accounts.request_limits import RequestLimits
from luthier.accounts.service import Accounts
from luthier.accounts.signing import SigningKeys
from luthier.accounts.types import Actor
from luthier.backends.caches.memory import MemoryCache
from luthier.backends.caches.redis import connected
from luthier.backends.embedders import minilm
from luthier.backends.engines.llama import LLAMA_COMMAND, LlamaEngine
from luthier.backends.engines.process import EngineProcess
from luthier.backends.engines.vllm import Upstream, VllmEngine
from luthier.backends.executors.local import LocalExecutor
from luthier.backends.executors.warm import Keep, WarmExecutor
from luthier.backends.fetchers.buckets import BucketAccess, BucketFetcher
from luthier.backends.fetchers.built_in import BuiltInFetcher
from luthier.backends.fetchers.by_scheme import BySchemeFetcher
from luthier.backends.fetchers.https import HttpsFetcher
from luthier.backends.notifiers.mail import MailNotifier, Relay
from luthier.backends.notifiers.slack import SlackNotifier
from luthier.backends.notifiers.webhook import WebhookNotifier
from luthier.backends.outbound import Guard
from luthier.backends.storage.local import LocalStorage
from luthier.backends.targets.folder import FolderTarget
from luthier.backends.targets.git import GitTarget
from luthier.backends.trackers.mlflow import MlflowTracker
from luthier.bases.service import Bases
from luthier.billing import price_book, token_rules
from luthier.billing.budgets import PlatformBudget
from luthier.billing.machine import free_bytes
from luthier.billing.service import Billing
from luthier.billing.tokens import Metering, TokenMeter
from luthier.database import Database
from luthier.datasets.buckets import prefixes_of
from luthier.datasets.deliveries import Deliveries
from luthier.datasets.importing import Imports
from luthier.datasets.service import Datasets
from luthier.datasets.sources import Sources
from luthier.datasets.types import Room
from luthier.datasets.uploads import Uploads
from luthier.errors import SetupError
from luthier.experiments.mirror import Mirror
from luthier.experiments.service import Experiments
from luthier.hooks.service import Hooks
from luthier.jobs import measures
from luthier.jobs.approvals import ApprovalRule
from luthier.jobs.service import Jobs, JobServices
from luthier.jobs.types import SavedStep
from luthier.notifications.courier import Courier
from luthier.notifications.queue import DeliveryQueue
from luthier.notifications.service import Means, Notifications
from luthier.notifications.types import Channel
from luthier.registry.arrivals import Arrivals
from luthier.registry.catalogue import Catalogue
from luthier.registry.deploys import Deploys, Place, TargetSpec, targets_of
from luthier.registry.exports import Exports
from luthier.registry.files import ModelFiles
from luthier.registry.gate_rules import GateRule
from luthier.registry.links import Links
from luthier.registry.promotions import Promotions
from luthier.registry.service import Registry
from luthier.registry.transfers import Transfers
from luthier.seams import Cache, Clock, DeployTarget, Embedder, Executor, Fetcher, InferenceEngine, Notifier, Storage
from luthier.secret_box import SecretBox
from luthier.serving.drift.buffer import Observer
from luthier.serving.drift.judging import Sources as DriftSources
from luthier.serving.drift.references import References
from luthier.serving.drift.service import Drift
from luthier.serving.drift.types import Thresholds
from luthier.serving.embeddings import Embeddings
from luthier.serving.notes import Notes
from luthier.serving.predictions import Predictions
from luthier.serving.service import Saved, Serving
from luthier.serving.trying import Judges
from luthier.settings import Settings, child_environment, machine_environment
from luthier.values import micro_usd


@dataclass(frozen=True)
class Platform:
    """Every service, ready to be called by a face."""

    settings: Settings
    database: Database
    storage: Storage
    accounts: Accounts
    audit: Audit
    access_log: AccessLog
    limits: RequestLimits
    quotas: Quotas
    means: Means
    notifications: Notifications
    billing: Billing
    bases: Bases
    datasets: Datasets
    uploads: Uploads
    imports: Imports
    jobs: Jobs
    hooks: Hooks
    experiments: Experiments
    registry: Registry
    promotions: Promotions
    transfers: Transfers
    catalogue: Catalogue
    serving: Serving
    predictions: Predictions
    embeddings: Embeddings
    judges: Judges
    drift: Drift
    engine: InferenceEngine
    now: Clock

    def close(self) -> None:
        """Finish background work, end the engine process, let go of the database."""
        self.imports.close()
        self.datasets.close()
        self.engine.close()
        self.billing.tokens.close()
        self.accounts.close()
        self.audit.close()
        self.access_log.close()
        self.database.close()


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def build(  # noqa: PLR0913  # what tests put in the place of the real thing
    settings: Settings,
    *,
    engine: InferenceEngine | None = None,
    embedder: Embedder | None = None,
    fetcher: Fetcher | None = None,
    notifiers: Mapping[Channel, Notifier] | None = None,
    passwords: Passwords | None = None,
    now: Clock = utc_now,
) -> Platform:
    """The embedded platform on one data folder, migrated and with a price book. All but `settings` is for tests: shipped fakes,
    a fetcher that may reach the tests' own servers, quick passwords."""
    database, storage = _database(settings), LocalStorage(settings.data)
    bases = Bases(settings.data / "bases", settings.bases, settings.model_aliases)
    audit, quotas = audit_of(database, settings, now).watching(), _quotas(settings, database, now)
    accounts = Accounts(database, now, signing=_signing(settings, now), limiter=_limiter(settings), passwords=passwords)
    means = Means(notifiers or notifiers_of(settings), SecretBox(settings.data / "secrets.key"))
    billing = _billing(settings, database, PlatformBudget(_budget(settings), accounts.home), quotas, now)
    engine, embedder, fetcher = engine or _engine(settings, bases), embedder or _embedder(), fetcher or _fetcher(settings)
    room = Room(settings.data / "scratch", settings.max_upload_bytes, settings.inline_upload_bytes, quotas)
    datasets = Datasets(database, storage, bases, room, now)
    deliveries = Deliveries(database, storage, room, now, datasets.check_later)
    files = _model_files(settings, storage, engine)
    catalogue = Catalogue(database, files, embedder)
    registry = Registry(database, files, bases, catalogue, now, gate=_gate(settings))
    jobs = Jobs(database, storage, JobServices(accounts, billing, bases, datasets, registry, _approvals(settings), quotas), now)
    notes = Notes(billing.tokens, Observer(settings.drift_share, now))
    predictions = Predictions(registry, bases, engine, _answers(settings), notes)
    sources = DriftSources(registry, datasets, jobs, References(datasets, predictions.answer, now), embedder)
    return Platform(
        settings=settings,
        database=database,
        storage=storage,
        accounts=accounts,
        audit=audit,
        limits=_limits(settings, accounts.limiter),
        quotas=quotas,
        access_log=AccessLog(settings.data / "access.log", settings.access_log_bytes),
        means=means,
        notifications=Notifications(database, means, now),
        billing=billing,
        bases=bases,
        datasets=datasets,
        uploads=Uploads(datasets, room, now),
        imports=Imports(datasets, deliveries, fetcher, _sources(settings, fetcher), room),
        jobs=jobs,
        hooks=Hooks(database, accounts, jobs, means.box, now),
        experiments=Experiments(database, storage, registry),
        registry=registry,
        promotions=Promotions(registry, jobs, automatic=settings.evaluate_after_training),
        transfers=_transfers(settings, database, Shelf(registry, files, bases, storage), now),
        catalogue=catalogue,
        serving=Serving(registry, bases, engine, notes, _saved(jobs, files)),
        predictions=predictions,
        drift=_drift(settings, database, sources, notes.observer, now),
        judges=Judges(bases, engine, billing.tokens),
        embeddings=_embeddings(settings, embedder, billing.tokens),
        engine=engine,
        now=now,
    )


def _database(settings: Settings) -> Database:
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.database_path)
    migrations.upgrade(database)
    return database


def _model_files(settings: Settings, storage: Storage, engine: InferenceEngine) -> ModelFiles:
    most = settings.model_cache_mb * 2**20
    return ModelFiles(storage, settings.data / "cache" / "models", most_cached_bytes=most, unload=engine.unload)


def _sources(settings: Settings, fetcher: Fetcher) -> Sources:
    return Sources(fetcher, settings.hub_url, prefixes_of(settings.import_from))


def _billing(settings: Settings, database: Database, platform: PlatformBudget, quotas: Quotas, now: Clock) -> Billing:
    metering = Metering(quotas, token_rules.parsed(settings.token_prices))
    billing = Billing(database, now, platform=platform, metering=metering)
    billing.first_start()
    if settings.prices is not None:
        billing.adopt(price_book.read(settings.prices))
    return billing


@dataclass(frozen=True)
class Shelf:
    """Where models lie."""

    registry: Registry
    files: ModelFiles
    bases: Bases
    storage: Storage


def _transfers(settings: Settings, database: Database, shelf: Shelf, now: Clock) -> Transfers:
    exports = Exports(database, shelf.storage, shelf.files, shelf.registry)
    keys = _signing(settings, now)
    links = Links(
        lambda: (keys.current().id, keys.current().secret.encode()),
        lambda: {name: key.secret.encode() for name, key in keys.valid().items()},
        now,
    )
    specs = {} if settings.deploy_targets is None else targets_of(settings.deploy_targets)
    places = {name: Place(spec.kind, _target(spec), spec.teams) for name, spec in specs.items()}
    scratch, most = settings.data / "scratch", settings.max_upload_bytes
    arrivals = Arrivals(shelf.registry, shelf.bases, shelf.storage, scratch, most, child_environment())
    return Transfers(exports, links, Deploys(database, exports, links, places, settings.public_url, now), arrivals)


def _target(spec: TargetSpec) -> DeployTarget:
    return FolderTarget(spec.path) if spec.kind == "folder" else GitTarget(spec.path, machine_environment(), push=spec.push)


def _budget(settings: Settings) -> int | None:
    return None if settings.budget_limit_usd is None else micro_usd(settings.budget_limit_usd)


def _approvals(settings: Settings) -> ApprovalRule:
    return ApprovalRule(micro_usd(settings.approval_above_usd), settings.approval_by_another)


def _gate(settings: Settings) -> GateRule:
    return GateRule(settings.promotion_metric, settings.promotion_margin, settings.promotion_by_another)


def _embedder() -> Embedder | None:
    """Where its weights are installed. They are loaded at the first text."""
    folder = minilm.weights()
    return None if folder is None else minilm.MiniLm(folder)


def _saved(jobs: Jobs, files: ModelFiles) -> Saved:
    def fetched(actor: Actor, tail: str, step: int) -> tuple[SavedStep, Path]:
        saved = jobs.saved(actor, tail, step)
        return saved, files.fetched(saved.folder, saved.key, saved.files)

    return fetched


def _embeddings(settings: Settings, embedder: Embedder | None, meter: TokenMeter) -> Embeddings:
    return Embeddings(embedder, meter, [name for part in settings.embedder_names.split(",") if (name := part.strip())])


def _engine(settings: Settings, bases: Bases) -> InferenceEngine:
    local = _local_engine(settings)
    if not settings.vllm_url:
        return local
    if not any(base.id == settings.vllm_base for base in bases.list()):
        raise SetupError(
            "LUTHIER_VLLM_BASE: no base has this id.", hint="`GET /api/bases` lists them; LUTHIER_BASES adds to them."
        )
    key = None if settings.vllm_key is None else settings.vllm_key.get_secret_value()
    return VllmEngine(Upstream(settings.vllm_url, key, bases.folder(bases.get(settings.vllm_base))), local)


def _local_engine(settings: Settings) -> InferenceEngine:
    where, environment, idle_s = settings.data / "run", child_environment(settings), settings.engine_idle_s
    start = partial(EngineProcess, environment=environment, idle_s=idle_s, start_s=settings.engine_start_s)
    usual = start(where, wait_s=settings.loading_wait_s)
    if settings.engine != "llama.cpp":
        return usual
    return LlamaEngine(start(where / "llama", wait_s=settings.loading_wait_s, command=LLAMA_COMMAND), usual)


def _answers(settings: Settings) -> Cache:
    if settings.redis_url is not None:
        return connected(settings.redis_url.get_secret_value(), settings.prediction_cache_s)
    return MemoryCache(settings.prediction_cache_bytes, settings.prediction_cache_s)


def _drift(settings: Settings, database: Database, sources: DriftSources, observer: Observer, now: Clock) -> Drift:
    thresholds = Thresholds(
        window=settings.drift_window,
        window_s=settings.drift_window_s,
        least=settings.drift_least,
        p=settings.drift_p,
        psi=settings.drift_psi,
        distance=settings.drift_distance,
        keep_s=settings.drift_keep_s,
        keep=settings.drift_keep,
    )
    return Drift(database, sources, observer, thresholds, now)


def _signing(settings: Settings, now: Clock) -> SigningKeys:
    given, before = settings.jwt_secret, settings.jwt_secret_before
    return SigningKeys(
        settings.data / "signing-keys.json",
        now,
        given=None if given is None else given.get_secret_value(),
        given_before=None if before is None else before.get_secret_value(),
    )


def audit_of(database: Database, settings: Settings, now: Clock = utc_now) -> Audit:
    """The audit log of this database."""
    return Audit(database, now, settings.data / "audit.head")


def _quotas(settings: Settings, database: Database, now: Clock) -> Quotas:
    quotas = Quotas(database, {quota: getattr(settings, f"quota_{quota}") for quota in Quota})
    measures.add_to(quotas, now)
    return quotas


def _limiter(settings: Settings) -> Limiter:
    return Limiter(settings.redis_url.get_secret_value() if settings.redis_url else "")


def _limits(settings: Settings, limiter: Limiter) -> RequestLimits:
    return RequestLimits(
        limiter,
        requests=settings.limit_requests,
        changes=settings.limit_changes,
        address=settings.limit_address,
    )


def _fetcher(settings: Settings) -> Fetcher:
    """What imports fetch with: the guarded way out, buckets with the platform's own keys, and what is built in."""
    secret = settings.s3_secret_access_key
    key = None if settings.s3_access_key_id is None or secret is None else (settings.s3_access_key_id, secret.get_secret_value())
    access = BucketAccess(
        settings.s3_endpoint, settings.s3_region, key, settings.gcs_service_account, ambient=settings.ambient_credentials
    )
    buckets, https = BucketFetcher(access), HttpsFetcher()
    return BySchemeFetcher({"https": https, "http": https, "s3": buckets, "gs": buckets, "luthier": BuiltInFetcher()})


def notifiers_of(settings: Settings) -> Mapping[Channel, Notifier]:
    """How endpoints are told, channel by channel."""
    guard = Guard(connect_s=10, total_s=10, loopback=settings.notify_loopback)
    password = settings.smtp_password.get_secret_value() if settings.smtp_password else None
    where = (settings.smtp_host, settings.smtp_port, settings.smtp_security)
    relay = Relay(*where, settings.smtp_user, password, settings.smtp_from) if settings.smtp_host else None
    return {
        Channel.WEBHOOK: WebhookNotifier(guard),
        Channel.SLACK: SlackNotifier(guard),
        Channel.EMAIL: MailNotifier(relay),
    }


def courier(platform: Platform) -> Courier:
    """The thread that tells what the outbox holds, to the endpoints of teams and of the settings."""
    settings, means = platform.settings, platform.means
    queue = DeliveryQueue(platform.database, means.box, platform.now)
    slack = settings.slack_webhook.get_secret_value() if settings.slack_webhook else None
    queue.keep_platform_endpoint(Channel.SLACK, slack)
    queue.keep_platform_endpoint(Channel.EMAIL, settings.notify_email or None)
    return Courier(queue, means.notifiers)


def mirror(platform: Platform) -> Mirror | None:
    """What tells MLflow of runs and versions; None where the settings name none. Raises: SetupError where it is not installed."""
    settings = platform.settings
    if settings.mlflow_url is None:
        return None
    tracker = MlflowTracker(settings.mlflow_url.get_secret_value(), settings.data / "mlflow-artifacts")
    return Mirror(platform.database, platform.experiments, tracker, platform.now)


def executor(settings: Settings) -> Executor:
    """Where jobs train: processes of this machine, some of them ready before they are needed."""
    keep = Keep(settings.warm_trainers, settings.warm_idle_s, settings.warm_memory_mb * 2**20)
    return WarmExecutor(LocalExecutor(settings.data, child_environment(settings)), keep, free_bytes)
