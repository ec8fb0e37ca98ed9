"""Limits of the fuzz tests."""

import resource
import signal

import pytest

from tests.fuzz.harness import TooSlow

MEMORY = 3 * 2**30  # beyond what the process has


@pytest.fixture(scope="module", autouse=True)
def limits():
    """Limit the memory and the time of an example."""

    def stop(*_):
        raise TooSlow

    before, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, stop)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    signal.signal(signal.SIGALRM, handler)
