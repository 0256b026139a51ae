"""Waiting for something to become true, with a deadline, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

Value = TypeVar("Value")
PAUSE_SECONDS = 0.05


def wait_until(condition: Callable[[], Value], what: str, timeout_seconds: float = 60) -> Value:
    """Ask again and again until ``condition()`` is true; its value. Blocking. Raises TimeoutError naming ``what``."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_seconds:g} s: {what}; the last answer was {value!r}")
        time.sleep(PAUSE_SECONDS)
    return value


def wait_until_steady(condition: Callable[[], bool], what: str, timeout_seconds: float = 60) -> None:
    """Wait until something is true four times in a row: workers take turns, and each learns of a change by itself."""
    wait_until(lambda: all(condition() for _ in range(4)), what, timeout_seconds)


async def wait_until_async(condition: Callable[[], Value], what: str, timeout_seconds: float = 60) -> Value:
    """As ``wait_until``, for a loop; ``condition`` runs in a thread."""
    return await asyncio.to_thread(wait_until, condition, what, timeout_seconds)


def in_time(attempt: Callable[[], float], limit_seconds: float, tries: int = 5) -> float:
    """Seconds of the first attempt that took no longer than promised, of so many.

    For promises that the product keeps by its design every time, on a machine that may be busy for a while with
    something else. Raises AssertionError if every attempt took longer.
    """
    seconds: list[float] = []
    while len(seconds) < tries:
        seconds.append(attempt())
        if seconds[-1] <= limit_seconds:
            return seconds[-1]
    raise AssertionError(f"never within {limit_seconds:g} s: {seconds}")


async def in_time_async(attempt: Callable[[], Awaitable[float]], limit_seconds: float, tries: int = 5) -> float:
    """As ``in_time``, for a loop."""
    seconds: list[float] = []
    while len(seconds) < tries:
        seconds.append(await attempt())
        if seconds[-1] <= limit_seconds:
            return seconds[-1]
    raise AssertionError(f"never within {limit_seconds:g} s: {seconds}")
