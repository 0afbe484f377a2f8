"""Log in with an OpenID provider: it says who somebody is, and from then on they have a login like everybody else's."""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import Depends, FastAPI, Query, Request, Response
from pydantic import TypeAdapter, ValidationError

from luthier.accounts import deeds
from luthier.accounts.deeds import Deed
from luthier.accounts.types import Email, Tokens
from luthier.errors import Forbidden, LoginRefused, NotFound, SetupError, Unauthenticated, Unavailable
from luthier.faces.rest.body import StrictRoute
from luthier.faces.rest.errors import problems
from luthier.faces.rest.trail import act_of
from luthier.faces.rest.wire import CurrentPlatform, router

if TYPE_CHECKING:
    from luthier.settings import Settings
    from luthier.wiring import Platform

_CALLBACK = "/auth/oidc/callback"
_ROUND_TRIP_S = 600
_EMAIL: TypeAdapter[str] = TypeAdapter(Email)


class ProviderRoute(StrictRoute):
    """Providers add query parameters of their own on the way back."""

    refuses_unknown = False


routes = router("/auth/oidc", "auth", route=ProviderRoute)


class Provider:
    """The provider of the settings: discovery, authorization code with PKCE, state and nonce; all by authlib."""

    def __init__(self, settings: Settings) -> None:
        """Raises: SetupError where a part of it is missing."""
        try:
            from authlib.integrations.starlette_client import OAuth
        except ImportError:
            raise SetupError("LUTHIER_OIDC_ISSUER needs authlib.", hint="pip install 'luthier[oidc]'") from None
        secret = settings.oidc_client_secret
        if not settings.oidc_client_id or secret is None:
            raise SetupError(
                "LUTHIER_OIDC_ISSUER needs LUTHIER_OIDC_CLIENT_ID and LUTHIER_OIDC_CLIENT_SECRET.",
                hint="The provider gives both when you register this server there.",
            )
        self.issuer = _checked(settings.oidc_issuer)
        self._callback = settings.public_url.rstrip("/") + _CALLBACK if settings.public_url else None
        self._must_be = {
            "iss": {"essential": True, "values": [settings.oidc_issuer]},
            "aud": {"essential": True, "values": [settings.oidc_client_id]},
        }
        self._client: Any = OAuth().register(
            "provider",
            client_id=settings.oidc_client_id,
            client_secret=secret.get_secret_value(),
            server_metadata_url=f"{self.issuer.rstrip('/')}/.well-known/openid-configuration",
            client_kwargs={"scope": "openid email", "code_challenge_method": "S256", "timeout": 10},
        )

    async def away(self, request: Request) -> Response:
        """To the provider. Raises: Unavailable."""
        callback = self._callback or str(request.base_url).rstrip("/") + _CALLBACK
        import httpx2

        try:
            return await self._client.authorize_redirect(request, callback)
        except (httpx2.HTTPError, ssl.SSLError, RuntimeError, ValueError):
            raise _away() from None

    async def back(self, request: Request) -> dict[str, Any]:
        """What the provider says of who has come back. Raises: Unauthenticated; Unavailable."""
        import httpx2
        from authlib.common.errors import AuthlibBaseError
        from joserfc.errors import JoseError

        try:
            token = await self._client.authorize_access_token(request, claims_options=self._must_be, leeway=30)
        except (httpx2.HTTPError, ssl.SSLError):
            raise _away() from None
        except (AuthlibBaseError, JoseError, RuntimeError, ValueError, KeyError, TypeError):
            token = {}
        said = token.get("userinfo")
        if not said or not isinstance(said.get("sub"), str):
            raise _unconfirmed()
        return dict(said)


def add_to(app: FastAPI, platform: Platform) -> None:
    """Where the settings name a provider: its client, and the signed cookie that holds state and nonce for ten minutes."""
    settings = platform.settings
    app.state.provider = None
    if not settings.oidc_issuer:
        return
    app.state.provider = Provider(settings)
    from starlette.middleware.sessions import SessionMiddleware

    app.add_middleware(
        SessionMiddleware,
        secret_key=hashlib.sha256(b"oidc:" + platform.accounts.signing.current().secret.encode()).hexdigest(),
        session_cookie="luthier_oidc",
        max_age=_ROUND_TRIP_S,
        path="/auth/oidc",
        same_site="lax",
        https_only=settings.public_url.startswith("https://"),
    )


def _provider(request: Request) -> Provider:
    if request.app.state.provider is None:
        raise NotFound("provider", hint="This server has none: log in with e-mail and password, `POST /auth/login`.")
    return request.app.state.provider


CurrentProvider = Annotated[Provider, Depends(_provider)]


@routes.get("/login", status_code=302, response_class=Response, responses=problems(NotFound, Unavailable))
async def login(request: Request, provider: CurrentProvider) -> Response:
    """Go to the OpenID provider of this server, to log in there."""
    return await provider.away(request)


@routes.get("/callback", responses=problems(NotFound, Unauthenticated, LoginRefused, Forbidden, Unavailable))
async def callback(
    request: Request,
    provider: CurrentProvider,
    platform: CurrentPlatform,
    code: Annotated[str | None, Query(max_length=4096, description="What the provider sends back.")] = None,
    state: Annotated[str | None, Query(max_length=4096, description="What this server sent there.")] = None,
) -> Tokens:
    """Where the provider sends people back to. Tokens, as of `POST /auth/login`."""
    if not code or not state:
        raise _unconfirmed()
    said = await provider.back(request)
    vouched = partial(platform.accounts.vouched, provider.issuer, said["sub"], _verified_email(said))
    # A GET, since that is how people come back, and yet one that makes a login: the audit log has to know.
    with deeds.doing(Deed(lambda: act_of(request.scope))):
        return await anyio.to_thread.run_sync(vouched)


def _verified_email(said: dict[str, Any]) -> str | None:
    """The e-mail address, if the provider has verified it: only then may it stand for an account."""
    if said.get("email_verified") is not True:
        return None
    try:
        return _EMAIL.validate_python(said.get("email"), strict=True)
    except ValidationError:
        return None


def _checked(issuer: str) -> str:
    """Raises: SetupError where what it says could be changed on its way here."""
    parts = urlsplit(issuer)
    host = parts.hostname or ""
    if parts.scheme == "https" and host and not parts.query and not parts.fragment:
        return issuer
    if parts.scheme == "http" and (host == "localhost" or _is_loopback(host)):
        return issuer
    raise SetupError(
        "LUTHIER_OIDC_ISSUER is no https address.", hint="Give it as the provider writes it in its discovery document."
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _unconfirmed() -> Unauthenticated:
    return Unauthenticated("The provider did not confirm who you are.", hint="Begin again at `GET /auth/oidc/login`.")


def _away() -> Unavailable:
    return Unavailable("The OpenID provider does not answer.", hint="Try again in a moment, or log in with e-mail and password.")
