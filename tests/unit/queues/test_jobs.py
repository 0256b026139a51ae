"""Jobs: recipients of one message at one domain, in bounded numbers."""

from mta.queues.jobs import MAX_RECIPIENTS, jobs_of
from tests.unit.queues.recipients import queued


def test_recipients_are_grouped_by_message_and_domain() -> None:
    recipients = [
        queued(1, message_id=1, domain="a.test"),
        queued(2, message_id=1, domain="b.test"),
        queued(3, message_id=1, domain="a.test"),
        queued(4, message_id=4, domain="a.test"),
    ]
    jobs = list(jobs_of(recipients, None))
    groups = [(job.message_id, job.domain, [recipient.recipient_id for recipient in job.recipients]) for job in jobs]
    assert groups == [(1, "a.test", [1, 3]), (1, "b.test", [2]), (4, "a.test", [4])]


def test_a_job_is_bounded_and_no_recipient_is_lost() -> None:
    recipients = [queued(number, message_id=1) for number in range(1, 2 * MAX_RECIPIENTS + 11)]
    jobs = list(jobs_of(recipients, b"content"))
    assert [len(job.recipients) for job in jobs] == [MAX_RECIPIENTS, MAX_RECIPIENTS, 10]
    assert [recipient.recipient_id for job in jobs for recipient in job.recipients] == list(range(1, 211))
    assert all(job.content == b"content" for job in jobs)


def test_a_job_carries_what_delivery_needs() -> None:
    (job,) = jobs_of([queued(7, attempts=3)], b"x")
    assert (job.message_id, job.tenant, job.sender, job.domain, job.size) == (
        7,
        "acme",
        "a@acme.test",
        "example.net",
        100,
    )
    assert job.recipients == [(7, "r7@example.net", 3)]


def test_addresses_that_need_smtputf8_go_apart() -> None:
    recipients = [queued(1, message_id=1), queued(2, message_id=1, local="ü"), queued(3, message_id=1)]
    jobs = list(jobs_of(recipients, None))
    assert sorted(tuple(recipient.recipient_id for recipient in job.recipients) for job in jobs) == [(1, 3), (2,)]


def test_nothing_makes_no_job() -> None:
    assert list(jobs_of([], None)) == []
