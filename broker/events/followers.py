"""The followers of one process, by job."""

from collections.abc import Callable, Collection, Sequence

from broker.events.follower import LogFollower, ReadLog
from shared.events import Event


class Followers:
    def __init__(self, read: ReadLog, on_idle: Callable[[], None] | None = None) -> None:
        """`on_idle` is called whenever the last follower has gone."""
        self._read = read
        self._on_idle = on_idle
        self._by_job: dict[str, list[LogFollower]] = {}

    def follow(self, job_id: str) -> LogFollower:
        """From the first event on, which the doorbell will bring."""
        return self._add(LogFollower(job_id, self._read, self._forget))

    def tail(self, job_id: str, after: int) -> LogFollower:
        """What follows event number `after`: it may be in the log, so the follower begins there."""
        follower = self._add(LogFollower(job_id, self._read, self._forget, after))
        follower.distrust()
        return follower

    @property
    def jobs(self) -> Collection[str]:
        """Those that somebody follows."""
        return self._by_job.keys()

    def of(self, job_id: str) -> Sequence[LogFollower]:
        return self._by_job.get(job_id, ())

    def ring(self, event: Event) -> None:
        for follower in tuple(self._by_job.get(event.job_id, ())):  # a copy: the news may end it
            follower.ring(event)

    def distrust(self, job_id: str) -> None:
        """Doorbells of this job may have been missed: its followers read the log next."""
        for follower in self._by_job.get(job_id, ()):
            follower.distrust()

    def distrust_all(self) -> None:
        for job_id in self._by_job:
            self.distrust(job_id)

    def close(self) -> None:
        for followers in list(self._by_job.values()):
            for follower in list(followers):
                follower.close()

    def _add(self, follower: LogFollower) -> LogFollower:
        self._by_job.setdefault(follower.job_id, []).append(follower)
        return follower

    def _forget(self, follower: LogFollower) -> None:
        followers = self._by_job[follower.job_id]
        followers.remove(follower)
        if not followers:
            del self._by_job[follower.job_id]
        if not self._by_job and self._on_idle is not None:
            self._on_idle()
