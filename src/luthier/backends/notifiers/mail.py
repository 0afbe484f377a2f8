"""Plain e-mail through the admin's own SMTP server."""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime

from luthier.backends.notifiers import wording
from luthier.seams import News, NotSendable, Reply

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z0-9-]{2,63}", re.ASCII)


@dataclass(frozen=True)
class Relay:
    """The server that takes our mail."""

    host: str
    port: int = 587
    security: str = "starttls"
    """`tls` from the first byte, `starttls`, or `none` for a relay on this machine."""
    user: str | None = None
    password: str | None = None
    sender: str = "luthier@localhost"
    step_s: float = 5
    """For each answer of the server: an exchange has a handful."""
    tls: ssl.SSLContext | None = None


class MailNotifier:
    """One mail an event and address."""

    def __init__(self, relay: Relay | None) -> None:
        self._relay = relay

    def check(self, address: str) -> None:
        """Raises: NotSendable."""
        if self._relay is None:
            raise NotSendable("this server sends no mail")
        if len(address) > 254 or not _ADDRESS.fullmatch(address):
            raise NotSendable("this is no e-mail address")

    def send(self, news: News, address: str, secrets: Sequence[str]) -> Reply:  # noqa: ARG002
        """One exchange with the relay."""
        if self._relay is None:
            return Reply(error="no_mail_server")
        if not f"{self._relay.user or ''}{self._relay.password or ''}".isascii():
            return Reply(error="bad_login")  # smtplib cannot say it to the relay, and raises in the middle of the exchange
        try:
            self.check(address)
            self._hand_over(self._relay, _mail(self._relay.sender, address, news))
        except NotSendable:
            return Reply(error="bad_address")
        except smtplib.SMTPResponseException as error:
            return Reply(error.smtp_code, "refused")
        except smtplib.SMTPRecipientsRefused as error:
            return Reply(next(iter(error.recipients.values()))[0], "refused")
        except OSError as error:  # smtplib's own errors are some, and hide a timeout behind one
            timed_out = isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)
            return Reply(error="timeout" if timed_out else "unreachable")
        return Reply(250)

    def _hand_over(self, relay: Relay, mail: EmailMessage) -> None:
        tls = relay.tls or ssl.create_default_context()
        if relay.security == "tls":
            connection = smtplib.SMTP_SSL(relay.host, relay.port, timeout=relay.step_s, context=tls)
        else:
            connection = smtplib.SMTP(relay.host, relay.port, timeout=relay.step_s)
        with connection:
            if relay.security == "starttls":
                connection.starttls(context=tls)
            if relay.user is not None:
                connection.login(relay.user, relay.password or "")
            connection.send_message(mail)


def _mail(sender: str, address: str, news: News) -> EmailMessage:
    mail = EmailMessage()
    # A line break in a value would begin a header of somebody else's: `title` has none, and `EmailMessage` refuses them.
    mail["Subject"] = f"[Luthier] {wording.title(news)}"
    mail["From"] = sender
    mail["To"] = address
    mail["Date"] = format_datetime(news.at)
    mail["Message-ID"] = f"<{news.id}@luthier>"
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content("\n".join([wording.title(news), "", *wording.lines(news), "", f"event: {news.id}"]) + "\n")
    return mail
