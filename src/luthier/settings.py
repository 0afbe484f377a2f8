"""Settings: the only place that reads the environment. Own names are `LUTHIER_*`; secrets have no default.

The seeds' names (`BUDGET_LIMIT_USD`, `API_KEY`, ...) are aliases as the features that read them arrive.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from luthier.errors import SetupError

_MIB = 1024 * 1024


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
    tick_s: float = Field(default=0.5, gt=0, le=10, description="Pause between two ticks of the supervisor, in seconds.")
    heartbeat_s: float = Field(default=10, gt=0, le=60, description="How often a supervisor proves a job alive, in seconds.")
    reap_after_s: float = Field(
        default=30, gt=0, le=600, description="A job whose heartbeat stands still this long is taken over."
    )
    max_attempts: int = Field(default=4, ge=1, le=20, description="How often a crashed job is started before it fails.")
    max_upload_bytes: int = Field(default=10 * 1024 * _MIB, ge=1, description="Largest dataset upload.")
    inline_upload_bytes: int = Field(default=16 * _MIB, ge=0, description="Up to this size an upload answers with its report.")
    engine_idle_s: float = Field(default=600, gt=0, description="An engine process without requests for this long ends.")
    engine_start_s: float = Field(default=60, gt=0, description="How long a first request waits for its engine.")
    access_log_bytes: int = Field(
        default=16 * _MIB,
        ge=0,
        description="Size at which `<data>/access.log` takes a new file; four old ones stay. 0: no such log.",
    )
    bases: str = Field(default="", description="More allowed base models: `hub/id@40-hex-commit`, separated by commas.")
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
    api_url: str = Field(default="http://127.0.0.1:8000", description="Client: the server that the SDK and the commands talk to.")
    api_key: str | None = Field(default=None, description="Client: the key. Without it the commands read <data>/admin.key.")

    @classmethod
    def load(cls, **overrides: object) -> Settings:
        """The environment, with `overrides` (command-line flags; None means not given) on top.

        Raises: SetupError naming the variable, for an unknown `LUTHIER_*` or a value that is not allowed.
        """
        _refuse_unknown(set(os.environ))
        given = {name: value for name, value in overrides.items() if value is not None}
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
    """What a trainer or an engine inherits: the machine's environment without anything of ours that is secret.

    `settings` go to those that may fetch a base: under `HF_ENDPOINT`, which the hub library reads.
    """
    machine = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
    if settings is not None and ("hub_url" in settings.model_fields_set or "HF_ENDPOINT" not in machine):
        machine["HF_ENDPOINT"] = settings.hub_url
    # Compute threads that wait for each other spin only shortly. On busy cores the default starves the thread they wait
    # for: one training step of the tiny base took 540 ms where it takes 200 with this, and 135 on free cores either way.
    return {"GOMP_SPINCOUNT": "20000", **machine}


def _refuse_unknown(names: set[str]) -> None:
    known = {f"LUTHIER_{name.upper()}" for name in Settings.model_fields}
    for name in sorted(names):
        if name.startswith("LUTHIER_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See docs/reference/settings.md for all names."
            raise SetupError(f"Unknown setting {name}.", hint=hint)
