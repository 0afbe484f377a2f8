"""All routes of the face, feature by feature; the first that matches wins."""

from __future__ import annotations

from luthier.faces.rest import health, jobs

ROUTERS = (health.routes, jobs.routes)
