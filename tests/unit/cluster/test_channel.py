"""The mailbox alone; the channel as a whole runs in tests/integration/test_session.py."""

from cluster.channel import _Mailbox


def test_what_is_pushed_is_read_in_order() -> None:
    mailbox = _Mailbox()
    mailbox.push("rank 0", 0, [b"a", b"b"])
    mailbox.push("rank 1", 0, [b"c"])
    mailbox.push("rank 0", 1, [b"d"])
    assert mailbox.read(0) == [b"a", b"b", b"c", b"d"]


def test_a_batch_that_comes_twice_counts_once() -> None:
    mailbox = _Mailbox()
    for _ in range(2):
        mailbox.push("rank 0", 0, [b"a"])
    assert mailbox.read(0) == [b"a"]


def test_events_stay_until_the_driver_has_them() -> None:
    mailbox = _Mailbox()
    mailbox.push("rank 0", 0, [b"a", b"b"])
    assert mailbox.read(0) == mailbox.read(0) == [b"a", b"b"]
    mailbox.push("rank 0", 1, [b"c"])
    assert mailbox.read(2) == [b"c"]
    assert mailbox.read(3) == []


def test_a_push_learns_of_the_request_to_stop() -> None:
    mailbox = _Mailbox()
    assert not mailbox.push("rank 0", 0, [])
    mailbox.request_stop()
    assert mailbox.push("rank 0", 1, [])
