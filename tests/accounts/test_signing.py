"""The keys that access tokens are signed with."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from luthier.accounts import access_tokens
from luthier.accounts.signing import SigningKeys
from luthier.errors import SetupError, Unauthenticated

GOOD = "0123456789abcdefghijklmnopqrstuvwxyz"


class Moment:
    def __init__(self):
        self.now = datetime(2026, 11, 21, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def now():
    return Moment()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "signing-keys.json"


def token(keys, now):
    said = access_tokens.claims(user_id="u", tenant_id="t", login_id="l", token_version=0, now=now())
    return access_tokens.signed(said, keys.current())


def test_of_many_first_starts_all_sign_with_one_key(path, now):
    found = []
    threads = [threading.Thread(target=lambda: found.append(SigningKeys(path, now).current())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({key.secret for key in found}) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_rotation_keeps_the_old_key_for_a_while_in_every_process(path, now):
    ours, theirs = SigningKeys(path, now), SigningKeys(path, now)
    before = token(ours, now)
    theirs.rotate()
    assert ours.current() == theirs.current()
    assert access_tokens.read(before, ours.valid(), now())
    theirs.rotate()
    assert access_tokens.read(before, ours.valid(), now())
    assert len(ours.valid()) == 3
    now.now += timedelta(minutes=15)
    assert list(ours.valid()) == [theirs.current().id]
    with pytest.raises(Unauthenticated):
        access_tokens.read(before, ours.valid(), now())
    theirs.rotate()
    assert len(SigningKeys(path, now).valid()) == 2


def test_a_secret_of_the_settings_is_replaced_in_the_settings(path, now):
    old = SigningKeys(path, now, given=GOOD)
    new = SigningKeys(path, now, given=GOOD[::-1], given_before=GOOD)
    assert access_tokens.read(token(old, now), new.valid(), now())
    assert not path.exists()
    with pytest.raises(SetupError, match="LUTHIER_JWT_SECRET"):
        new.rotate()


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "short",
        GOOD[:31],
        "a" * 64,
        "abcdefg" * 9,
        "your-secret-key-change-in-production",
        "Your-Secret-Key-Change-In-Production",
    ],
)
def test_a_secret_that_is_none_stops_the_start(path, now, secret):
    with pytest.raises(SetupError, match="LUTHIER_JWT_SECRET"):
        SigningKeys(path, now, given=secret)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '[{"id": "x"}]', "[1]"])
def test_a_broken_file_says_what_to_do(path, now, text):
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SetupError, match="Remove it"):
        SigningKeys(path, now).current()


def test_a_file_that_others_can_read_is_refused(path, now):
    SigningKeys(path, now).current()
    path.chmod(0o644)
    with pytest.raises(SetupError, match="chmod 600"):
        SigningKeys(path, now).current()


def test_a_secret_is_in_no_repr(path, now):
    keys = SigningKeys(path, now)
    assert keys.current().secret not in repr(keys.current())
