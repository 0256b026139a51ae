"""The ready queue of a site: jobs that wait for a connection, tenants in turn.

Each tenant has a line of its own; ``take`` serves the lines one job each, round and round. So a tenant with a million
messages delays another's single message by at most one job per waiting tenant and connection.

All operations are O(1) and synchronous.
"""

from collections import deque

from mta.queues.jobs import Job


class ReadyQueue:
    """Jobs for one site."""

    __slots__ = ("_count", "_lines")

    def __init__(self) -> None:
        # A dict keeps the order of insertion: its first line is the next to be served.
        self._lines: dict[str, deque[Job]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many jobs wait."""
        return self._count

    def put(self, job: Job) -> None:
        """Stand at the end of the tenant's line."""
        line = self._lines.get(job.tenant)
        if line is None:
            self._lines[job.tenant] = deque((job,))
        else:
            line.append(job)
        self._count += 1

    def put_back(self, job: Job) -> None:
        """Stand at the head of the tenant's line: a job that was taken but not tried."""
        self._lines.setdefault(job.tenant, deque()).appendleft(job)
        self._count += 1

    def take(self) -> Job | None:
        """The next job; its tenant goes to the end of the round."""
        tenant = next(iter(self._lines), None)
        if tenant is None:
            return None
        line = self._lines.pop(tenant)
        job = line.popleft()
        if line:
            self._lines[tenant] = line
        self._count -= 1
        return job

    def take_all(self) -> list[Job]:
        """Every job, in order of service within each tenant."""
        jobs = [job for line in self._lines.values() for job in line]
        self._lines.clear()
        self._count = 0
        return jobs
