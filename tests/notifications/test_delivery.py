"""Delivery: at least once with one id, patient with those that are down, and none waits for another."""

import contextlib
import threading
import time
from datetime import timedelta

import pytest

from luthier.notifications import rules
from luthier.notifications.courier import Courier
from luthier.notifications.queue import DeliveryQueue
from luthier.notifications.types import Channel, EndpointChange
from luthier.seams import Reply

from .conftest import ALICE, BOB

A, B = "https://hooks.example.com/a", "https://hooks.example.com/b"
DOWN = Reply(error="unreachable")


def test_an_event_reaches_who_wants_it_and_nobody_else(desk):
    every, failed, theirs = desk.add(A), desk.add(B, kinds=("job.failed",)), desk.add(A, actor=BOB)
    first, second = desk.publish("job.failed", job_id="job_1"), desk.publish("job.running")
    desk.work()
    assert sorted(desk.told(A)) == sorted([first, second])
    assert desk.told(B) == [first]
    assert [each.state for each in desk.deliveries(every)] == ["delivered", "delivered"]
    assert [(each.kind, each.event_id, each.last_status) for each in desk.deliveries(failed)] == [("job.failed", first, 200)]
    assert desk.deliveries(theirs, BOB) == []
    news = next(news for news, _ in desk.notifier.told if news.id == first)
    assert (dict(news.data), news.at) == ({"job_id": "job_1"}, desk.clock)


def test_what_is_rolled_back_is_told_to_nobody(desk):
    desk.add()
    with contextlib.suppress(RuntimeError), desk.database.write(ALICE.tenant_id) as session:
        desk.notifications.publish(session, ALICE.tenant_id, "job.failed", {})
        raise RuntimeError
    desk.work()
    assert desk.told() == []


def test_it_is_tried_again_after_5s_5m_30m_2h_5h_10h_and_then_given_up(desk):
    desk.replies[A] = DOWN
    endpoint, event = desk.add(), desk.publish()
    desk.work()
    for number, wait in enumerate(rules.BACKOFF_S, 1):
        (found,) = desk.deliveries(endpoint)
        assert (found.state, found.attempts, found.last_error) == ("waiting", number, "unreachable")
        assert found.next_at == desk.clock + timedelta(seconds=wait)
        desk.pass_s(wait - 1)
        desk.work()
        assert len(desk.told()) == number
        desk.pass_s(1)
        desk.work()
    (found,) = desk.deliveries(endpoint)
    assert (found.state, found.attempts, found.next_at) == ("dead", 7, None)
    assert desk.told() == [event] * 7
    assert sum(rules.BACKOFF_S) < 24 * 3600


def test_who_comes_back_gets_what_it_missed_with_the_same_id(desk):
    desk.replies[A] = DOWN
    endpoint, event = desk.add(), desk.publish()
    desk.work()
    del desk.replies[A]
    desk.pass_s(5)
    desk.work()
    assert desk.told() == [event, event]
    assert [(each.state, each.attempts) for each in desk.deliveries(endpoint)] == [("delivered", 2)]


def test_who_does_not_answer_one_event_is_left_alone_with_the_next(desk):
    desk.replies[A] = DOWN
    desk.add()
    for _ in range(30):
        desk.publish()
    desk.work()
    assert len(desk.told()) == 1
    desk.pass_s(5)
    desk.work()
    assert len(desk.told()) == 2


def test_w09_410_switches_the_endpoint_off(desk):
    desk.replies[A] = Reply(410, "refused")
    endpoint = desk.add()
    desk.publish()
    desk.publish()
    desk.work()
    desk.pass_s(10)
    desk.publish()
    desk.work()
    assert len(desk.told()) == 1
    found = desk.notifications.get(ALICE, endpoint.id)
    assert (found.enabled, found.disabled_reason) == (False, "It answered 410: it wants no more.")
    assert {each.state for each in desk.deliveries(endpoint)} == {"dead"}
    del desk.replies[A]
    desk.notifications.change(ALICE, endpoint.id, EndpointChange(enabled=True))
    again = desk.publish()
    desk.work()
    assert desk.told()[-1] == again


@pytest.mark.parametrize("status", [401, 404])
def test_w09_who_does_not_know_us_is_asked_five_times(desk, status):
    desk.replies[A] = Reply(status, "refused")
    endpoint = desk.add()
    desk.publish()
    for _ in range(10):
        desk.work()
        desk.pass_s(36_000)
    assert len(desk.told()) == 5
    assert [(each.state, each.last_status) for each in desk.deliveries(endpoint)] == [("dead", status)]


def test_w09_retry_after_is_waited_for_by_all_that_is_meant_for_it(desk):
    desk.replies[A] = Reply(429, "refused", retry_after_s=120)
    endpoint = desk.add()
    desk.publish()
    desk.work()
    desk.publish()
    desk.pass_s(119)
    desk.work()
    assert len(desk.told()) == 1
    del desk.replies[A]
    desk.pass_s(1)
    desk.work()
    assert {each.state for each in desk.deliveries(endpoint)} == {"delivered"}


def test_nobody_makes_us_wait_for_longer_than_a_day():
    assert rules.verdict(Reply(429, "refused", retry_after_s=1e9), 1, 0).wait_s == 86_400


@pytest.mark.parametrize("error", ["blocked_address", "bad_url"])
def test_w05_what_leads_into_a_private_network_is_not_tried_again(desk, error):
    desk.replies[A] = Reply(error=error)
    endpoint = desk.add()
    desk.publish()
    desk.work()
    desk.pass_s(36_000)
    desk.work()
    assert [(each.state, each.attempts, each.last_error) for each in desk.deliveries(endpoint)] == [("dead", 1, error)]


def test_a_test_goes_to_one_endpoint_whatever_it_wants_and_however_it_failed(desk):
    one, _other = desk.add(A, kinds=("job.failed",)), desk.add(B)
    desk.replies[A] = DOWN
    desk.publish()
    desk.work()
    del desk.replies[A]
    made = desk.notifications.test(ALICE, one.id)
    assert (made.kind, made.state, made.attempts) == ("endpoint.test", "waiting", 0)
    desk.work()
    assert desk.deliveries(one)[0].state == "delivered"
    assert desk.told(B) == [desk.deliveries(one)[1].event_id]


def test_endpoints_of_the_settings_hear_of_every_team_and_no_team_sees_them(desk):
    desk.queue.keep_platform_endpoint(Channel.SLACK, "https://hooks.slack.com/x")
    desk.queue.keep_platform_endpoint(Channel.SLACK, "https://hooks.slack.com/x")
    first, second = desk.publish(), desk.publish(actor=BOB)
    desk.publish("job.starting")
    desk.work()
    assert sorted(desk.told("https://hooks.slack.com/x")) == sorted([first, second])
    assert desk.notifications.list(ALICE) == []
    desk.queue.keep_platform_endpoint(Channel.SLACK, "https://hooks.slack.com/y")
    third = desk.publish()
    desk.work()
    assert desk.told("https://hooks.slack.com/y") == [third]
    desk.queue.keep_platform_endpoint(Channel.SLACK, None)
    desk.queue.keep_platform_endpoint(Channel.EMAIL, None)
    desk.publish()
    desk.work()
    assert len(desk.told()) == 3


def test_a_sender_that_dies_in_mid_delivery_is_replaced_and_the_id_is_the_same(desk):
    endpoint, event = desk.add(), desk.publish()
    desk.queue.spread()
    (errand,) = desk.queue.claim(10, 10)  # and then it is gone, perhaps after it was sent
    assert [news.id for news in errand.news.values()] == [event]
    desk.work()
    assert desk.told() == []
    desk.pass_s(41)
    desk.work()
    assert desk.told() == [event]
    (delivery,) = errand.news
    assert not desk.queue.note(errand, delivery, Reply(200))  # the first one was slow, not dead: it has nothing to say
    assert [each.attempts for each in desk.deliveries(endpoint)] == [1]


def test_two_senders_share_the_work(desk):
    for number in range(20):
        desk.add(f"https://hooks.example.com/{number}")
    events = [desk.publish() for _ in range(3)]
    other = DeliveryQueue(desk.database, desk.box, desk.now)
    couriers = [desk.courier, Courier(other, desk.means.notifiers, poll_s=0.01)]
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in couriers]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while len(desk.told()) < 60 and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert sorted(desk.told()) == sorted(events * 20)


def test_a_dead_endpoint_delays_no_other(desk):
    """One that hangs holds one hand of the courier; the rest goes on."""
    over = threading.Event()
    desk.replies[A] = lambda news: (over.wait(20), DOWN)[1]
    desk.add(A)
    other = desk.add(B)
    stop = threading.Event()
    thread = threading.Thread(target=desk.courier.run, args=(stop,))
    thread.start()
    try:
        events = [desk.publish() for _ in range(5)]
        until = time.monotonic() + 10
        while (len(desk.told(B)) < 5 or not desk.told(A)) and time.monotonic() < until:
            time.sleep(0.01)
        assert sorted(desk.told(B)) == sorted(events)
        assert len(desk.told(A)) == 1
    finally:
        over.set()
        stop.set()
        thread.join()
    assert {each.state for each in desk.deliveries(other)} == {"delivered"}


def test_those_that_failed_last_get_some_hands_and_not_all(desk):
    down = [f"https://hooks.example.com/{number}/down" for number in range(6)]
    desk.replies |= dict.fromkeys(down, DOWN)
    for url in (*down, A, B):
        desk.add(url)
    desk.publish()
    desk.work()
    desk.publish()
    desk.pass_s(5)
    desk.queue.spread()
    errands = desk.queue.claim(6, 2)
    assert sorted(errand.sealed.address in down for errand in errands) == [False, False, True, True]
    assert [errand.failing for errand in errands] == [errand.sealed.address in down for errand in errands]


def test_a_month_later_it_is_forgotten(desk):
    endpoint = desk.add()
    desk.publish()
    desk.work()
    desk.pass_s(31 * 86_400)
    desk.queue.forget_old()
    assert desk.deliveries(endpoint) == []


def test_a_notifier_with_a_bug_does_not_end_the_courier(desk, caplog):
    def broken(news):
        raise ZeroDivisionError

    desk.replies[A] = broken
    desk.add(A)
    desk.add(B)
    stop = threading.Event()
    thread = threading.Thread(target=desk.courier.run, args=(stop,))
    thread.start()
    desk.publish()
    until = time.monotonic() + 10
    while not ("a delivery fell" in caplog.text and desk.told(B)) and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert desk.told(B)
    assert "a delivery fell, and counts as an attempt" in caplog.text


def test_what_a_notifier_raises_counts_as_an_attempt_and_ends_like_any_other(desk):
    def broken(news):
        raise ZeroDivisionError

    desk.replies[A] = broken
    endpoint = desk.add(A)
    desk.publish()
    desk.work()
    (delivery,) = desk.deliveries(endpoint)
    assert (delivery.attempts, delivery.last_error, delivery.state) == (1, "internal_error", "waiting")
    for wait_s in rules.BACKOFF_S:
        desk.pass_s(wait_s + 300)
        desk.work()
    (delivery,) = desk.deliveries(endpoint)
    assert (delivery.attempts, delivery.state) == (1 + len(rules.BACKOFF_S), "dead")
