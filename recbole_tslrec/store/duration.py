"""How long something takes and will take, for people."""

from __future__ import annotations

from logging import getLogger
from time import monotonic


def duration(seconds: float) -> str:
    """``9 s``, ``4 min 40 s`` or ``2 h 5 min``: the two largest units that matter."""
    seconds = max(round(seconds), 0)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


class Pace:
    """Tells in the log, once and early, how fast the language model reads, and how long it will take.

    Args:
        what: is being done, for the line.
        skip: how often ``tell`` is to be called before the clock runs: the first batch warms up.
        after: how often from then on before the line is written.
        unit: of what is counted, in the plural.
    """

    def __init__(self, what: str, skip: int = 0, after: int = 1, unit: str = "positions"):
        self.what, self.unit = what, unit
        self._calls, self._skip, self._after = 0, skip, after
        self._since, self._before = monotonic(), 0

    def tell(self, done: int, total: int, an_epoch: int | None = None) -> None:
        """Note how many are done; write the line when it is time and some are left.

        Args:
            done, total: positions, or what ``unit`` says.
            an_epoch: those of an epoch, if there are several.
        """
        self._calls += 1
        if self._calls == self._skip:
            self._since, self._before = monotonic(), done
        if self._calls != self._skip + self._after or done >= total:
            return
        rate = max(done - self._before, 1) / max(monotonic() - self._since, 1e-9)
        epoch = "" if an_epoch is None else f"{duration(an_epoch / rate)} an epoch, "
        getLogger(__name__).info(
            f"{self.what}: {rate:,.{0 if rate >= 10 else 2}f} {self.unit} a second so far; {epoch}"
            f"{duration((total - done) / rate)} left{'' if an_epoch is None else ' at most'}"
        )
