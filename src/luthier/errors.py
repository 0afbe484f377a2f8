"""Every error that a caller can see. What happened, with numbers; then what to do next.

```text
LuthierError
├── BadRequest          400  cannot be parsed
│   └── IdempotencyKeyInvalid, CursorInvalid
├── Unauthenticated     401  who is asking is not known
│   └── LoginRefused
├── PaymentRequired     402  the money is not there
│   └── BudgetExceeded, QuotaExceeded
├── Forbidden           403  known, but the role lacks it
├── NotFound            404  unknown, or somebody else's: the answer is the same
├── TooSlow             408
├── Conflict            409  the thing is in another state
│   └── WrongState, InUse, AccountExists, LastAdmin, EvaluationNeeded, KeyInFlight, ArtifactCorrupt, DatasetNotReady,
│       ModelNotReady, NotExported, NotInProduction, DeployRefused, NoModel
├── Gone                410  it was here, and was deleted
├── TooLarge            413
├── UnsupportedType     415
├── RangeInvalid        416
├── Invalid             422  understood, and wrong
│   └── FieldInvalid, ForbiddenField, ModelOutputInvalid, ModelNotAllowed, DatasetRejected, WillNotFit, KeyReused
├── TooMany             429  later, or less at a time
│   └── RateLimited
├── Unavailable         503  something this needs does not answer now
│   └── DatabaseBusy, ServerFull, EngineUnavailable, ModelLoading, BaseUnavailable
├── StorageFull         507
├── SetupError          exit 78: the process must not start like this
└── ClientError         only in the SDK and CLI: the server could not be reached, or did not speak our protocol
```

Which status code each branch gets stands in one place: `faces/rest/errors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from luthier.amounts import Binding, over


class LuthierError(Exception):
    """The root. `message` says what happened, `hint` what to do next; both are safe to show to the caller."""

    code: ClassVar[str] = "error"
    request_id: str | None = None
    """In the SDK: which request was refused, as the server's log names it."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        details: Mapping[str, Any] | Sequence[Any] | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.details = details
        self.error_code = code or self.code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message


class BadRequest(LuthierError):
    """The request cannot be parsed."""

    code = "bad_request"


class IdempotencyKeyInvalid(BadRequest):
    """An `Idempotency-Key` is 1 to 255 visible ASCII characters."""

    code = "idempotency_key_invalid"


class CursorInvalid(BadRequest):
    """The `after` cursor is not one that a list answer gave to this caller."""

    code = "cursor_invalid"

    def __init__(self) -> None:
        super().__init__(
            "The cursor is not one that this list gave out.",
            hint="Start without `after`, then pass on `next_cursor` of each answer.",
            param="after",
        )


class Unauthenticated(LuthierError):
    """No valid key came with the request."""

    code = "unauthenticated"

    def __init__(
        self, message: str = "This needs an API key or a login, and none that is valid was sent.", *, hint: str | None = None
    ) -> None:
        key = "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`. A local start writes one to <data>/admin.key."
        super().__init__(message, hint=hint or f"{key} Logins end: `tune login`, or `POST /auth/login`.")


class LoginRefused(Unauthenticated):
    """E-mail and password do not belong together. The answer, and the time it takes, are the same whatever is wrong."""

    code = "login_refused"

    def __init__(self) -> None:
        super().__init__(
            "E-mail and password do not belong together, or this account may not log in.",
            hint="Check both. Those who run the server can set a new password: `luthier users password`.",
        )


class PaymentRequired(LuthierError):
    """The money is not there."""

    code = "payment_required"


class BudgetExceeded(PaymentRequired):
    """The job would cost more than its own limit, or than its owner has left; or nothing is left for an answer of a model."""

    code = "budget_exceeded"

    def __init__(
        self, needed_usd: Decimal, limit_usd: Decimal, spent_usd: Decimal = Decimal(0), binding: Binding | None = None
    ) -> None:
        amounts = {"current_usd": spent_usd, "limit_usd": limit_usd, "requested_usd": needed_usd}
        message, hint = over(needed_usd, limit_usd, limit_usd - spent_usd, binding)
        super().__init__(
            message,
            hint=hint,
            param="limits.max_cost_usd" if binding is None else None,
            details={name: f"{amount:f}" for name, amount in amounts.items()},
        )


class Forbidden(LuthierError):
    """The caller is known, but the role lacks this right."""

    code = "forbidden"


class NotFound(LuthierError):
    """Unknown, or another tenant's: both get this answer."""

    code = "not_found"

    def __init__(self, noun: str = "thing", *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(f"No such {noun}.", hint=hint or f"List what is there with `GET /api/{noun}s`.", param=param)
        self.noun = noun
        self.usual_hint = hint is None


class Conflict(LuthierError):
    """The thing is in a state in which this cannot be done."""

    code = "conflict"


class WrongState(Conflict):
    """The state machine has no such step."""

    code = "wrong_state"


class DatasetNotReady(Conflict):
    """The dataset is still being validated, or was rejected."""

    code = "dataset_not_ready"


class ModelNotReady(Conflict):
    """The job that should make this model has not ended, or ended without one."""

    code = "model_not_ready"


class NotExported(Conflict):
    """The model was not made into files of this form yet."""

    code = "not_exported"


class NotInProduction(Conflict):
    """Only the version in Production is deployed, unless the caller says that any stage will do."""

    code = "not_in_production"


class DeployRefused(Conflict):
    """The target did not take the model: its repository is missing or has changes, or the name is another team's."""

    code = "deploy_refused"


class NoModel(Conflict):
    """No version of this name is in Production, and only such a one answers."""

    code = "no_model"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No version of {name} is in Production.",
            hint="Train one and move it there with `POST /api/models/transition` or `model promote`.",
            param="model_name",
        )


class InUse(Conflict):
    """Something else still needs it."""

    code = "in_use"


class AccountExists(Conflict):
    """No account can be made with this e-mail address."""

    code = "account_exists"

    def __init__(self) -> None:
        super().__init__("No account can be made with this e-mail address.", hint="If it is yours, log in instead.")


class LastAdmin(Conflict):
    """A team needs an admin: the last one can neither leave nor become less."""

    code = "last_admin"

    def __init__(self) -> None:
        super().__init__("The team would be left without an admin.", hint="Make somebody else an admin first.")


class EvaluationNeeded(Conflict):
    """Only a model that was measured, and is no worse than its base and than today's Production, goes to Production."""

    code = "evaluation_needed"


class ApprovalNeeded(Conflict):
    """Your wish is noted. Somebody else must ask for the same before it happens."""

    code = "approval_needed"


class EndpointConflict(Conflict):
    """An endpoint with this address is there, or the team has as many as it may."""

    code = "endpoint_conflict"


class KeyInFlight(Conflict):
    """The first request with this `Idempotency-Key` has not ended yet."""

    code = "idempotency_key_in_flight"


class OffsetMismatch(Conflict):
    """These bytes do not follow those that the upload has; `details` says how many it has."""

    code = "offset_mismatch"

    def __init__(self, have: int, message: str = "") -> None:
        super().__init__(
            message or f"The upload has {have:,} bytes; what comes next must begin there.",
            hint="Ask with HEAD how many bytes there are, and go on from there.",
            details={"offset": have},
        )


class RenderingDiffers(Conflict):
    """Tokenizer, template or rules are not those that the model was trained with: it would read other tokens."""

    code = "rendering_differs"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} has another tokenizer or chat template now, or another release's rules render it: its tokens would differ.",
            hint="Fetch the base again at the revision of the model's card, or train the model again.",
        )


class ArtifactCorrupt(Conflict):
    """A stored file no longer matches the checksum that was written with it."""

    code = "artifact_corrupt"


class Gone(LuthierError):
    """It was here, and its owner deleted it."""

    code = "deleted"

    def __init__(self, noun: str, *, why: str = "was deleted", hint: str | None = None) -> None:
        super().__init__(f"This {noun} {why}.", hint=hint or f"List what is there with `GET /api/{noun}s`.")
        self.noun = noun
        self.usual_hint = hint is None


class TooSlow(LuthierError):
    """The body did not come to an end in time."""

    code = "request_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The body did not come to an end within {seconds:g} s.", hint="Send it in one go.")


class TooLarge(LuthierError):
    """More bytes than this accepts."""

    code = "too_large"


class UnsupportedType(LuthierError):
    """The body is of a type that this route does not read."""

    code = "unsupported_media_type"


class RangeInvalid(LuthierError):
    """The byte range lies outside the file."""

    code = "range_invalid"


class Invalid(LuthierError):
    """Understood, and wrong."""

    code = "invalid"


class FieldInvalid(Invalid):
    """One field or more of the request has a value that is not allowed; `details` lists each."""

    code = "invalid_field"


class ModelOutputInvalid(Invalid):
    """The model answered, but not with finite probabilities."""

    code = "model_output_invalid"


class ForbiddenField(Invalid):
    """A field that only the platform sets."""

    code = "forbidden_field"


class ModelNotAllowed(Invalid):
    """The base model is not on the allow-list."""

    code = "model_not_allowed"


class DatasetRejected(Invalid):
    """The data holds errors; `details` is the report, `code` the first finding's code."""

    code = "dataset_rejected"


class WillNotFit(Invalid):
    """The job needs more memory than the hardware has."""

    code = "will_not_fit"


class KeyReused(Invalid):
    """The `Idempotency-Key` was used before, with another request."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came before, with another request.", hint="Use a new key for a new request.")


class TooMany(LuthierError):
    """Later, or less at a time."""

    code = "too_many_requests"

    def __init__(self, message: str, *, retry_after_s: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or f"Try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


class RateLimited(TooMany):
    """More requests came than a rule allows."""

    code = "rate_limited"

    def __init__(self, limit: int, *, within_s: int, retry_after_s: int) -> None:
        super().__init__(
            f"More than the {limit:,} requests came that are allowed within {within_s:,} s.",
            retry_after_s=retry_after_s,
            hint=f"Try again in {retry_after_s} s. To follow a job, read its event stream instead of asking again and again.",
        )
        self.limit = limit


class QuotaExceeded(PaymentRequired):
    """The team would hold more than its quota allows; `details` has the limit, what is used, and what was asked for."""

    code = "quota_exceeded"

    def __init__(self, quota: str, *, limit: int, used: int, asked: int, hint: str) -> None:
        super().__init__(
            f"The quota `{quota}` is {limit:,}; {used:,} are used, and this needs {asked:,} more.",
            hint=f"{hint} Or ask the admin of this server for more: `luthier quotas set`.",
            details={"quota": quota, "limit": limit, "used": used, "asked": asked},
        )


class Unavailable(LuthierError):
    """Something that this needs does not answer now."""

    code = "unavailable"
    retry_after_s = 2


class DatabaseBusy(Unavailable):
    """The database did not answer in time. Nothing was changed."""

    code = "database_busy"

    def __init__(self) -> None:
        super().__init__("The database did not answer in time.", hint="Try again in 2 s, with the same Idempotency-Key.")


class ServerFull(Unavailable):
    """More connections are open than this server has room for."""

    code = "server_full"
    retry_after_s = 5

    def __init__(self, open_now: int, most: int) -> None:
        super().__init__(f"{open_now:,} connections are open; there is room for {most:,}.", hint="Try again in 5 s.")


class EngineUnavailable(Unavailable):
    """The process that holds the models is starting, or cannot start."""

    code = "engine_unavailable"


class ModelLoading(Unavailable):
    """The model is being loaded, and that takes longer than a request may wait. It goes on meanwhile."""

    code = "model_loading"
    retry_after_s = 5

    def __init__(self) -> None:
        super().__init__("The model is still being loaded.", hint="Ask again in some seconds.")


class BaseUnavailable(Unavailable):
    """The base model is not on this machine and could not be fetched."""

    code = "base_unavailable"


class StorageFull(LuthierError):
    """The disk is full. Nothing was changed."""

    code = "storage_full"

    def __init__(self) -> None:
        super().__init__("The disk is full; nothing was changed.", hint="Free space in the data folder, then try again.")


class SetupError(LuthierError):
    """The process must not start like this. Exit status 78, one line that names what to mend."""

    code = "setup"


class ClientError(LuthierError):
    """The server could not be reached, or what answered does not speak Luthier's protocol."""

    code = "connection"


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "error"), counted(2000, "error")
    ('1 error', '2,000 errors')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
