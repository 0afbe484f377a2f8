"""Everybody ends keys of their own, whatever their role has become; what is another's stays another's."""

import pytest

from .test_auth_rows import Town, is_401


@pytest.fixture
def town(tmp_path):
    town = Town(tmp_path / "data")
    yield town
    town.platform.close()


def made_a_viewer(town):
    """Somebody who made a key as a member, and is a viewer now: their tokens and the key."""
    tokens = town.invited("member", "bob@example.org")
    key = town.key_of(tokens)
    assert town.ask("PATCH", f"/api/users/{tokens['user_id']}", json={"role": "viewer"}).json()["role"] == "viewer"
    return tokens, key


def test_who_was_made_a_viewer_ends_a_key_of_their_own(town):
    tokens, key = made_a_viewer(town)
    path = f"/api/keys/{key['key']['id']}"
    assert town.as_(key["secret"]).status_code == 200
    assert town.as_(tokens, "DELETE", path).status_code == 204
    assert is_401(town.as_(key["secret"]))
    assert town.as_(tokens, "DELETE", path).status_code == 204  # once more does nothing


def test_a_viewers_key_ends_itself(town):
    _, key = made_a_viewer(town)
    assert town.as_(key["secret"], "DELETE", f"/api/keys/{key['key']['id']}").status_code == 204
    assert is_401(town.as_(key["secret"]))


def test_a_viewer_ends_nobody_elses_key_and_makes_and_replaces_none(town):
    tokens, key = made_a_viewer(town)
    other = town.key_of(town.invited("member", "eve@example.org"))
    assert town.as_(tokens, "DELETE", f"/api/keys/{other['key']['id']}").status_code == 404
    assert town.as_(other["secret"]).status_code == 200
    assert town.as_(tokens, "POST", "/api/keys", json={"name": "k"}).status_code == 403
    assert town.as_(tokens, "POST", f"/api/keys/{key['key']['id']}/rotate", json={}).status_code == 403


def test_a_key_to_read_ends_none_not_even_itself(town):
    """A key of an admin would end the whole team's otherwise."""
    made = town.ask("POST", "/api/keys", json={"name": "dashboard", "scopes": ["read"]}).json()
    assert town.as_(made["secret"], "DELETE", f"/api/keys/{made['key']['id']}").status_code == 403
    assert town.as_(made["secret"]).status_code == 200
