"""Models on their way out of here and in."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.registry.arrivals import Arrivals
from luthier.registry.deploys import Deploys
from luthier.registry.exports import Exports
from luthier.registry.links import Links


@dataclass(frozen=True)
class Transfers:
    """What a face asks for them."""

    exports: Exports
    links: Links
    deploys: Deploys
    arrivals: Arrivals
