"""The contract of `seams.Notifier`, run on every backend against receivers on loopback; then what each adds."""

import base64
import hashlib
import hmac
import json
import ssl
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.policy import default
from typing import Any

import pytest
import trustme

from luthier import signatures
from luthier.backends.notifiers.mail import MailNotifier, Relay
from luthier.backends.notifiers.memory import MemoryNotifier
from luthier.backends.notifiers.slack import SlackNotifier
from luthier.backends.notifiers.webhook import WebhookNotifier
from luthier.backends.outbound import Guard
from luthier.seams import News, NotSendable, Reply

from .receivers import drip, flood, http_server, mail_server

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NEWS = News("evt_1", "job.failed", NOW, {"job_id": "job_1", "name": "intents", "error": {"code": "diverged"}}, NOW)
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
QUICK = Guard(connect_s=0.5, total_s=0.6, private=True)


@dataclass
class Case:
    """A notifier, its receiver, and how to make that one misbehave."""

    notifier: Any
    address: str
    heard: Any

    def send(self, news=NEWS) -> Reply:
        return self.notifier.send(news, self.address, (SECRET,))


@pytest.fixture(scope="session")
def authority():
    return trustme.CA()


@pytest.fixture
def server_tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.test", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def webhook():
    with http_server() as (port, heard):
        yield Case(WebhookNotifier(QUICK), f"http://127.0.0.1:{port}/in", heard)


@pytest.fixture
def webhook_tls(server_tls, client_tls):
    with http_server(server_tls) as (port, heard):
        guard = replace(QUICK, tls=client_tls, resolve=lambda host, port: ["127.0.0.1"])
        yield Case(WebhookNotifier(guard), f"https://hooks.test:{port}/in", heard)


@pytest.fixture
def slack():
    with http_server() as (port, heard):
        yield Case(SlackNotifier(QUICK), f"http://127.0.0.1:{port}/services/x", heard)


@pytest.fixture
def mail(server_tls, client_tls):
    with mail_server(server_tls) as (port, heard):
        relay = Relay("127.0.0.1", port, "starttls", "us", "word", "luthier@here.example", step_s=0.5, tls=client_tls)
        yield Case(MailNotifier(relay), "ops@there.example", heard)


@pytest.fixture
def memory():
    heard = type("Heard", (), {"requests": [], "reply": (200, {}, b""), "silent": False})()

    def answer(news, address):
        heard.requests.append(news)
        return Reply(error="timeout") if heard.silent else Reply(heard.reply[0], None if heard.reply[0] == 200 else "refused")

    return Case(MemoryNotifier(answer), "https://a.example", heard)


ALL = ["webhook", "webhook_tls", "slack", "mail", "memory"]


@pytest.fixture(params=ALL)
def case(request) -> Case:
    return request.getfixturevalue(request.param)


def test_what_is_sent_is_heard(case):
    reply = case.send()
    assert reply.told
    assert reply.error is None
    assert case.heard.requests


def test_a_refusal_is_told_with_its_status(case):
    case.heard.reply = (503, {}, b"no")
    reply = case.send()
    assert not reply.told
    assert (reply.status, reply.error) == (503, "refused")


def test_silence_ends(case):
    case.heard.silent = True
    began = time.monotonic()
    reply = case.send()
    assert not reply.told
    assert (reply.status, reply.error) == (None, "timeout")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("address", ["", "nothing", "\r\nBcc: x"])
def test_what_is_no_address_is_refused(case, address):
    with pytest.raises(NotSendable):
        case.notifier.check(address)


def test_its_own_address_is_fine(case):
    case.notifier.check(case.address)


@pytest.mark.parametrize("name", ["webhook", "slack", "mail"])
def test_nobody_there(name, request):
    case = request.getfixturevalue(name)
    dead = f"http://127.0.0.1:{_closed_port()}/"
    notifier = MailNotifier(Relay("127.0.0.1", _closed_port())) if name == "mail" else case.notifier
    reply = notifier.send(NEWS, case.address if name == "mail" else dead, (SECRET,))
    assert reply == Reply(error="unreachable")


def _closed_port():
    with http_server() as (port, _):
        return port


# -- webhooks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["webhook", "webhook_tls"])
def test_the_signature_is_that_of_standard_webhooks(name, request):
    case = request.getfixturevalue(name)
    case.send()
    case.send(replace(NEWS, sent_at=datetime(2026, 11, 21, 13, tzinfo=UTC)))
    (first, body), (second, again) = case.heard.requests
    assert (first["webhook-id"], first["webhook-timestamp"]) == ("evt_1", str(int(NOW.timestamp())))
    assert (second["webhook-id"], again) == ("evt_1", body)
    signed = b"evt_1." + first["webhook-timestamp"].encode() + b"." + body
    right = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    assert first["webhook-signature"] == f"v1,{right}"
    assert second["webhook-signature"] != first["webhook-signature"]
    told = json.loads(body)
    assert (told["type"], told["timestamp"], told["data"]["job_id"]) == ("job.failed", "2026-11-21T12:00:00Z", "job_1")
    assert first["content-type"] == "application/json"


def test_two_secrets_sign_while_one_replaces_the_other(webhook):
    other = signatures.new_secret()
    webhook.notifier.send(NEWS, webhook.address, (other, SECRET))
    ((headers, body),) = webhook.heard.requests
    given = tuple(headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
    assert len(given[2].split(" ")) == 2
    assert all(signatures.is_signed(secret, given, body, NEWS.sent_at) for secret in (SECRET, other))


def test_a_webhook_without_a_secret_is_not_sent(webhook):
    assert webhook.notifier.send(NEWS, webhook.address, ()) == Reply(error="no_secret")
    assert webhook.heard.requests == []


def test_a_server_whose_certificate_is_for_another_name_is_not_told(webhook_tls):
    reply = webhook_tls.notifier.send(NEWS, webhook_tls.address.replace("hooks.test", "other.test"), (SECRET,))
    assert reply == Reply(error="unreachable")
    assert webhook_tls.heard.requests == []


def test_w06_a_redirect_is_a_failure_and_is_not_followed(webhook):
    webhook.heard.reply = (302, {"location": webhook.address}, b"")
    assert webhook.send() == Reply(302, "redirect")
    assert len(webhook.heard.requests) == 1


@pytest.mark.parametrize("status", [300, 301, 303, 304, 307, 308])
def test_w06_any_3xx_is_a_failure(webhook, status):
    webhook.heard.reply = (status, {"location": "http://169.254.169.254/"}, b"")
    assert webhook.send() == Reply(status, "redirect")


@pytest.mark.parametrize(("answer", "error"), [(drip, "timeout"), (flood, "reply_too_large")])
@pytest.mark.parametrize("name", ["webhook", "slack"])
def test_w08_an_answer_without_an_end_is_cut(name, answer, error, request):
    case = request.getfixturevalue(name)
    case.heard.reply = answer
    began = time.monotonic()
    assert case.send().error == error
    assert time.monotonic() - began < 10


def test_w09_retry_after_is_read_as_seconds_or_date(webhook):
    webhook.heard.reply = (429, {"retry-after": "120"}, b"")
    assert webhook.send().retry_after_s == 120
    webhook.heard.reply = (429, {"retry-after": "Sat, 21 Nov 2026 12:10:00 GMT"}, b"")
    assert webhook.send().retry_after_s == 600
    for junk in ("soon", "-1", "9" * 80, "Sat, 99 Nov 2026"):
        webhook.heard.reply = (429, {"retry-after": junk}, b"")
        assert webhook.send().retry_after_s is None


# -- Slack -------------------------------------------------------------------------------------------------------------


def test_w10_slack_shows_every_letter_and_wakes_nobody(slack):
    evil = "<!channel> @here *bold* _i_ ~s~ `c` <http://x|y>\r\n*another line*"
    slack.send(replace(NEWS, data={"job_id": "job_1", "name": evil, "error": {"message": evil}}))
    told = json.loads(slack.heard.requests[0][1])
    assert (told["mrkdwn"], told["link_names"], told["parse"]) == (False, False, "none")
    text = told["text"]
    assert "<" not in text
    assert ">" not in text
    assert "&lt;!channel&gt;" in text
    assert "@here" not in text
    assert "\r" not in text
    # Two lines: the title and the message. Nobody's words begin a third one.
    lines = text.split("\n")
    assert lines[0].startswith("Job ")
    assert all(line.startswith(("Job ", "job", "error ")) for line in lines if not line.startswith("name"))
    assert not any(f"\n{mark}" in text or f" {mark}" in text for mark in "*_~`")


@pytest.mark.parametrize(
    ("kind", "data", "title"),
    [
        ("budget.alert", {"threshold": 80, "period": "2026-11"}, "80 % of the budget for 2026-11 are used"),
        ("budget.alert", {}, "Budget alert"),
        ("spending.unusual", {"day": "2026-11-21", "spent_usd": "90.00"}, "Unusual spending on 2026-11-21: $90.00"),
        ("job.failed", {"job_id": "job_1", "name": None}, "Job job_1: failed"),
    ],
)
def test_a_title_says_what_happened(slack, kind, data, title):
    slack.send(replace(NEWS, kind=kind, data=data))
    text = json.loads(slack.heard.requests[0][1])["text"].replace("\u200b", "")
    assert text.split("\n")[0] == title


# -- e-mail ------------------------------------------------------------------------------------------------------------


def test_a_mail_is_plain_text_over_tls_with_a_login(mail):
    mail.send()
    (word, login), (sender, recipients, body) = mail.heard.requests
    assert (word, base64.b64decode(login.split(" ")[1])) == ("auth", b"\0us\0word")
    assert "luthier@here.example" in sender
    assert ["ops@there.example" in each for each in recipients] == [True]
    found = message_from_bytes(body, policy=default)
    assert (found["Subject"], found["To"]) == ("[Luthier] Job intents (job_1): failed", "ops@there.example")
    assert (found.get_content_type(), found["Message-ID"]) == ("text/plain", "<evt_1@luthier>")
    assert "error code: diverged" in found.get_content()


def test_no_words_of_others_begin_a_header(mail):
    evil = "x\r\nBcc: victim@there.example\r\n\r\nBuy"
    assert mail.send(replace(NEWS, data={"job_id": "job_1", "name": evil})).told
    found = message_from_bytes(mail.heard.requests[-1][2], policy=default)
    assert found["Bcc"] is None
    assert found["Subject"].startswith("[Luthier] Job x Bcc: victim")


@pytest.mark.parametrize(
    "address",
    ["a@b.example\r\nBcc: c@d.example", "a@b.example, c@d.example", "Name <a@b.example>", "a@b", "@b.example", "a" * 300],
)
def test_an_address_that_is_more_than_one_is_refused(mail, address):
    with pytest.raises(NotSendable):
        mail.notifier.check(address)
    assert mail.notifier.send(NEWS, address, ()) == Reply(error="bad_address")
    assert mail.heard.requests == []


@pytest.mark.parametrize("login", [{"password": "p\u00e4ss"}, {"user": "\u00fcs"}])
def test_a_login_that_smtp_cannot_say_is_refused_by_name(mail, login):
    notifier = MailNotifier(replace(mail.notifier._relay, **login))
    assert notifier.send(NEWS, "ops@there.example", ()) == Reply(error="bad_login")
    assert mail.heard.requests == []


def test_without_a_mail_server_nothing_is_sent():
    with pytest.raises(NotSendable, match="sends no mail"):
        MailNotifier(None).check("a@b.example")
    assert MailNotifier(None).send(NEWS, "a@b.example", ()) == Reply(error="no_mail_server")


# -- signatures --------------------------------------------------------------------------------------------------------


def test_who_knows_the_secret_and_signs_now_is_believed():
    body, stamp = b'{"a":1}', str(int(NOW.timestamp()))
    right = signatures.signature(SECRET, "msg_1", int(stamp), body)
    other = signatures.signature(signatures.new_secret(), "msg_1", int(stamp), body)
    assert signatures.is_signed(SECRET, ("msg_1", stamp, right), body, NOW)
    assert signatures.is_signed(SECRET, ("msg_1", stamp, f"{other} {right}"), body, NOW)
    assert not signatures.is_signed(SECRET, ("msg_1", stamp, other), body, NOW)
    assert not signatures.is_signed(SECRET, ("msg_2", stamp, right), body, NOW)
    assert not signatures.is_signed(SECRET, ("msg_1", stamp, right), b'{"a": 1}', NOW)
    for stale in (str(int(stamp) - 301), str(int(stamp) + 301), "", "soon", "-1", "1" * 40, "²"):
        signed = signatures.signature(SECRET, "msg_1", int(stale), body) if stale.isascii() and stale.isdigit() else right
        assert not signatures.is_signed(SECRET, ("msg_1", stale, signed), body, NOW)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_QUJD", "QUJD" * 10, "whsec_" + "A" * 31, "whsec_" + "A" * 300, "whsec_\u00e9"]
)
def test_w12_what_is_no_secret_of_24_bytes_does_not_sign(secret):
    with pytest.raises(ValueError, match="whsec_"):
        signatures.key_of(secret)
