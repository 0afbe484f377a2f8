"""Settings: the only place that reads the environment. Own names are `LUTHIER_*`; secrets have no default.

The seeds' names (`BUDGET_LIMIT_USD`, `API_KEY`, ...) are aliases as the features that read them arrive.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from luthier.errors import SetupError
from luthier.values import Usd

_MIB = 1024 * 1024
Rule = Annotated[str, Field(pattern=r"^([1-9][0-9]{0,8}/(second|minute|hour|day))?$")]
_SEEDS = {"budget_limit_usd": "BUDGET_LIMIT_USD", "slack_webhook": "SLACK_WEBHOOK"}
"""The seeds' names of settings; ours win."""
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|(^|_)KEY)(_|$)", re.IGNORECASE)
_OF_THE_HUB = frozenset({"HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"})


class Settings(BaseSettings):
    """What a server process runs with. Frozen; `Settings.load()` reads the environment and refuses the unknown."""

    model_config = SettingsConfigDict(env_prefix="LUTHIER_", frozen=True, extra="forbid")

    data: Path = Field(default=Path("data"), description="The data folder: database, job directories, models, bases.")
    host: str = Field(default="127.0.0.1", description="Address that `luthier up` listens on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port that `luthier up` listens on; 0 takes a free one.")
    slots: int = Field(default=1, ge=1, le=64, description="How many trainers one supervisor runs at a time.")
    gang_size: int = Field(default=8, ge=1, le=64, description="How many jobs on one base a trainer takes; 1 gives each its own.")
    gpus_per_job: int = Field(
        default=1, ge=1, le=64, description="On how many of this machine's GPUs a job trains at once, where there are as many."
    )
    gang_across_tenants: bool = Field(default=False, description="Whether jobs of several tenants may share a trainer.")
    warm_trainers: int = Field(
        default=1, ge=0, le=16, description="How many trainers a supervisor keeps ready after a job, for the next; 0 for none."
    )
    warm_idle_s: float = Field(default=600, gt=0, description="A trainer that is kept ready without a job this long ends.")
    warm_memory_mb: int = Field(
        default=1024,
        ge=512,
        description="What one may hold; none starts unless twice this is free, and it ends with less than that.",
    )
    token_cache_mb: int = Field(
        default=4096,
        ge=0,
        description="Tokenised rows kept of each tenant, so that a second job on the same data starts at once; 0 for none.",
    )
    model_cache_mb: int = Field(
        default=16_384,
        ge=0,
        description="Copies of adapters and checkpoints from which engines load; those not asked for longest go first.",
    )
    # A job's cost is written with its heartbeat, at the tick in which that is due, and is never more than 15 s old.
    tick_s: float = Field(
        default=0.5, gt=0, le=3, description="Pause between two ticks of the supervisor, in seconds; 3 at most."
    )
    heartbeat_s: float = Field(
        default=10,
        gt=0,
        le=10,
        description="How often a supervisor proves a job alive and writes its cost, in seconds; 10 at most.",
    )
    reap_after_s: float = Field(
        default=30, gt=0, le=600, description="A job whose heartbeat stands still this long is taken over."
    )
    max_attempts: int = Field(default=4, ge=1, le=20, description="How often a crashed job is started before it fails.")
    max_upload_bytes: int = Field(default=10 * 1024 * _MIB, ge=1, description="Largest dataset upload.")
    inline_upload_bytes: int = Field(default=16 * _MIB, ge=0, description="Up to this size an upload answers with its report.")
    engine: Literal["transformers", "llama.cpp"] = Field(
        default="transformers", description="What answers chats; llama.cpp needs `luthier[llama]`."
    )
    engine_idle_s: float = Field(default=600, gt=0, description="An engine process without requests for this long ends.")
    engine_start_s: float = Field(default=60, gt=0, description="An engine process that does not answer by then is given up.")
    loading_wait_s: float = Field(
        default=30, gt=0, description="A request waits this long for its engine and its model, then it is told to come again."
    )
    vllm_url: str = Field(default="", description="A vLLM server that answers for one base and all that stands on it.")
    vllm_key: SecretStr | None = Field(default=None, description="Its key, where it asks for one.")
    vllm_base: str = Field(default="", description="The base that it holds, by our id.")
    prediction_cache_bytes: int = Field(default=64 * _MIB, ge=0, description="Memory for answers of `/predict`; 0 keeps none.")
    prediction_cache_s: float = Field(default=3600, gt=0, description="How long such an answer is kept.")
    drift_share: float = Field(
        default=0, ge=0, le=1, description="Share of requests that are sampled to watch for drift, of models that do not say."
    )
    drift_window: int = Field(default=200, ge=20, le=2000, description="Sampled requests after which they are compared.")
    drift_window_s: float = Field(default=86_400, gt=0, description="Or after so long, with at least `drift_least` of them.")
    drift_least: int = Field(default=50, ge=20, le=2000, description="Never with fewer than these.")
    drift_p: float = Field(
        default=0.01, gt=0, le=0.2, description="Chance of a false alarm in a window in which nothing has changed."
    )
    drift_psi: float = Field(default=0.2, ge=0, description="PSI from which a difference counts.")
    drift_distance: float = Field(default=0.02, ge=0, le=1, description="Distance of embeddings from which it does.")
    drift_keep_s: float = Field(default=7 * 86_400, gt=0, description="How long a sampled request is kept.")
    drift_keep: int = Field(default=2000, ge=20, le=100_000, description="At most how many of one version.")
    limit_requests: Rule = Field(default="1500/second", description="Most requests of one user, and of one key. Empty: no limit.")
    limit_changes: Rule = Field(default="300/second", description="Most of them that are no GET, of one user.")
    limit_address: Rule = Field(
        default="1200/minute", description="Most requests of one address that say not who they are, or are refused for it."
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Where several servers count requests and keep answers of `/predict` together; else each for itself.",
    )
    quota_storage_bytes: int = Field(default=0, ge=0, description="Bytes of datasets that a team may keep; 0: no limit.")
    quota_queued_jobs: int = Field(default=20_000, ge=0, description="Jobs of a team that wait or run at a time; 0: no limit.")
    quota_running_jobs: int = Field(default=0, ge=0, description="Jobs of a team that run at a time; 0: no limit.")
    quota_tokens_a_month: int = Field(default=0, ge=0, description="Tokens that a team may train in a month; 0: no limit.")
    quota_served_tokens_a_month: int = Field(
        default=0, ge=0, description="Tokens of questions and answers that a team's models may serve in a month; 0: no limit."
    )
    token_prices: str = Field(
        default="",
        description="Dollars per million prompt and answer tokens of a base or an embedder, and per million predictions: "
        "`luthier/tiny=0.15/0.60,*=1.00/2.00/5.00`. Free where nothing is said.",
    )
    access_log_bytes: int = Field(
        default=16 * _MIB,
        ge=0,
        description="Size at which `<data>/access.log` takes a new file; four old ones stay. 0: no such log.",
    )
    bases: str = Field(default="", description="More allowed base models: `hub/id@40-hex-commit`, separated by commas.")
    model_aliases: str = Field(
        default="", description="More names of bases, as `gpt-4o-mini-2024-07-18=luthier/tiny`, separated by commas."
    )
    embedder_names: str = Field(
        default="",
        description="More names of the embedder under `/v1/embeddings`, as `text-embedding-3-small`, separated by commas.",
    )
    hub_url: str = Field(
        default="https://huggingface.co",
        description="Where base models and datasets are fetched from; for bases without it `HF_ENDPOINT` counts.",
    )
    import_from: str = Field(
        default="",
        description="Prefixes of buckets that datasets are imported from, separated by commas: `s3://data/{tenant_id}/,gs://open/`.",
    )
    s3_endpoint: str = Field(default="", description="Where the buckets of `s3://` are; AWS by default.")
    s3_region: str = Field(default="us-east-1", description="Region of these buckets.")
    s3_access_key_id: str | None = Field(default=None, description="Key that they are read with; without one, public ones only.")
    s3_secret_access_key: SecretStr | None = Field(default=None, description="Its secret.")
    gcs_service_account: Path | None = Field(
        default=None, description="JSON file of the service account that `gs://` is read with; without one, public buckets only."
    )
    ambient_credentials: bool = Field(
        default=False, description="Whether, where no keys are given, buckets are read with what this machine itself may read."
    )
    slack_webhook: SecretStr | None = Field(
        default=None, description="Slack address that hears of every team's jobs and budgets; also `SLACK_WEBHOOK`."
    )
    notify_email: str = Field(default="", description="Mailbox that hears of the same.")
    notify_loopback: bool = Field(
        default=False, description="Whether endpoints may be on this machine, by plain http and on any port: for development."
    )
    smtp_host: str = Field(default="", description="Server that takes our mail; without it none is sent.")
    smtp_port: int = Field(default=587, ge=1, le=65535, description="Its port.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(default="starttls", description="How it is spoken to.")
    smtp_user: str | None = Field(default=None, description="Login at that server, where it asks for one.")
    smtp_password: SecretStr | None = Field(default=None, description="And its password.")
    smtp_from: str = Field(default="luthier@localhost", description="Sender of our mail.")
    budget_limit_usd: Usd | None = Field(
        default=None,
        description="What all teams may spend in a month together; 0 stops all. Also `BUDGET_LIMIT_USD`.",
    )
    prices: Path | None = Field(
        default=None, description="JSON file with the price of all hardware, in place of the shipped ones."
    )
    approval_above_usd: Usd = Field(
        default="10", description="A job that is expected to cost more than this waits for an admin's approval."
    )
    approval_by_another: bool = Field(default=False, description="Whether that must be somebody else than who submitted it.")
    promotion_metric: str = Field(
        default="loss",
        pattern=r"^[a-z][a-z0-9_]{0,63}$",
        description="What a version is compared with today's Production by: `loss`, `exact_match`, `f1`, `accuracy`, ...",
    )
    promotion_margin: float = Field(
        default=0.0, ge=-1e6, le=1e6, description="By how much it must be better; below 0: by how much it may be worse."
    )
    promotion_by_another: bool = Field(default=False, description="Whether a version needs two people's word for Production.")
    evaluate_after_training: bool = Field(
        default=True,
        description="Whether a new version is compared with today's Production without being asked.",
    )
    mlflow_url: SecretStr | None = Field(
        default=None,
        description="MLflow that runs and versions are mirrored to: `sqlite:///file` or `http(s)://...`.",
    )
    deploy_targets: Path | None = Field(
        default=None, description="YAML file with the folders and git repositories that models are deployed to."
    )
    jwt_secret: SecretStr | None = Field(
        default=None, description="Signs access tokens, at least 32 random bytes. Without it <data>/signing-keys.json is made."
    )
    jwt_secret_before: SecretStr | None = Field(default=None, description="The one before, while tokens that it signed live.")
    open_signup: bool = Field(default=False, description="Whether anybody may make an account; else only who was invited.")
    open_docs: bool = Field(default=True, description="Whether /docs and /openapi.json need no key.")
    trusted_proxies: str = Field(
        default="", description="Addresses of reverse proxies, separated by commas: what they say of a caller's address counts."
    )
    public_url: str = Field(
        default="", description="Address under which people reach this server, where a proxy stands before it."
    )
    oidc_issuer: str = Field(default="", description="OpenID provider that people may log in with: its issuer, an https address.")
    oidc_client_id: str = Field(default="", description="What the provider calls this server.")
    oidc_client_secret: SecretStr | None = Field(default=None, description="And the secret that it gave to it.")
    api_url: str = Field(default="http://127.0.0.1:8000", description="Client: the server that the SDK and the commands talk to.")
    api_key: str | None = Field(
        default=None, repr=False, description="Client: the key. Without it the commands read <data>/admin.key."
    )
    login_path: Path = Field(
        default=Path("~/.config/luthier/login.json"), description="Client: where `tune login` keeps its tokens, mode 0600."
    )

    @classmethod
    def load(cls, **overrides: object) -> Settings:
        """The environment, with `overrides` (command-line flags; None means not given) on top.

        Raises: SetupError naming the variable, for an unknown `LUTHIER_*` or a value that is not allowed.
        """
        _refuse_unknown(set(os.environ))
        given = _from_seeds(os.environ) | {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**given)  # pyright: ignore[reportArgumentType]  # checked by pydantic
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "?"
            raise SetupError(
                f"LUTHIER_{name.upper()}: {first['msg']}.", hint=f"It is: {cls.model_fields[name].description}"
            ) from None

    @property
    def database_path(self) -> Path:
        return self.data / "luthier.db"

    @property
    def key_path(self) -> Path:
        return self.data / "admin.key"


def child_environment(settings: Settings | None = None) -> dict[str, str]:
    """What a trainer or an engine inherits: the machine's environment without anything that is secret, by its name.

    `settings` go to those that may fetch a base: under `HF_ENDPOINT`, which the hub library reads; with the machine's `HF_TOKEN`.
    """
    known = frozenset() if settings is None else _OF_THE_HUB
    machine = {name: value for name, value in machine_environment().items() if name in known or not _SECRET.search(name)}
    if settings is not None and ("hub_url" in settings.model_fields_set or "HF_ENDPOINT" not in machine):
        machine["HF_ENDPOINT"] = settings.hub_url
    # Compute threads that wait for each other spin only shortly. On busy cores the default starves the thread they wait
    # for: one training step of the tiny base took 540 ms where it takes 200 with this, and 135 on free cores either way.
    return {"GOMP_SPINCOUNT": "20000", **machine}


def machine_environment() -> dict[str, str]:
    """The environment without anything of ours: with what the machine itself is let in by, as git is at a remote."""
    ours = set(_SEEDS.values())
    return {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_") and name not in ours}


def _from_seeds(environment: Mapping[str, str]) -> dict[str, object]:
    given = {name: environment.get(seeds, "") for name, seeds in _SEEDS.items() if f"LUTHIER_{name.upper()}" not in environment}
    return {name: value for name, value in given.items() if value}


def _refuse_unknown(names: set[str]) -> None:
    known = {f"LUTHIER_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(names):
        if name.startswith("LUTHIER_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See docs/reference/settings.md for all names."
            raise SetupError(f"Unknown setting {name}.", hint=hint)
