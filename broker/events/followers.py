"""The followers of one process, by job."""

from collections.abc import Sequence

from broker.events.follower import LogFollower, ReadLog
from shared.events import Event


class Followers:
    def __init__(self, read: ReadLog) -> None:
        self._read = read
        self._by_job: dict[str, list[LogFollower]] = {}

    def follow(self, job_id: str) -> LogFollower:
        follower = LogFollower(job_id, self._read, self._forget)
        self._by_job.setdefault(job_id, []).append(follower)
        return follower

    def of(self, job_id: str) -> Sequence[LogFollower]:
        return self._by_job.get(job_id, ())

    def ring(self, event: Event) -> None:
        for follower in self._by_job.get(event.job_id, ()):
            follower.ring(event)

    def distrust(self) -> None:
        """Doorbells may have been missed: everybody reads the log next."""
        for followers in self._by_job.values():
            for follower in followers:
                follower.distrust()

    def close(self) -> None:
        for followers in list(self._by_job.values()):
            for follower in list(followers):
                follower.close()

    def _forget(self, follower: LogFollower) -> None:
        followers = self._by_job[follower.job_id]
        followers.remove(follower)
        if not followers:
            del self._by_job[follower.job_id]
