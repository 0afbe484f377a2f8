"""All routes of the face, feature by feature; the first that matches wins."""

from __future__ import annotations

from luthier.faces.rest import (
    account,
    approvals,
    audit,
    auth,
    billing,
    chat,
    datasets,
    deploys,
    docs,
    drift,
    experiments,
    finding,
    health,
    hooks,
    jobs,
    keys,
    model_arrivals,
    model_downloads,
    models,
    oidc,
    pictures,
    predict,
    quotas,
    seed_paths,
    team,
    tus,
    webhooks,
)
from luthier.faces.rest.openai import chat as openai_chat
from luthier.faces.rest.openai import completions as openai_completions
from luthier.faces.rest.openai import embeddings as openai_embeddings
from luthier.faces.rest.openai import files as openai_files
from luthier.faces.rest.openai import graders as openai_graders
from luthier.faces.rest.openai import jobs as openai_jobs
from luthier.faces.rest.openai import models as openai_models

ROUTERS = (
    # First: they are asked a thousand times a second, and each router before them is tried each time.
    predict.routes,
    predict.seed_routes,
    pictures.routes,
    health.routes,
    docs.routes,
    datasets.routes,
    tus.routes,
    jobs.routes,
    approvals.routes,
    finding.routes,
    finding.seed_routes,
    model_downloads.routes,
    deploys.routes,
    model_arrivals.routes,
    models.routes,
    experiments.routes,
    drift.routes,
    drift.seed_routes,
    chat.routes,
    account.routes,
    billing.routes,
    auth.routes,
    oidc.routes,
    keys.routes,
    team.routes,
    audit.routes,
    quotas.routes,
    hooks.routes,
    webhooks.routes,
    seed_paths.routes,
    openai_chat.routes,
    openai_completions.routes,
    openai_embeddings.routes,
    openai_files.routes,
    openai_graders.routes,
    openai_jobs.routes,
    openai_models.routes,
)
