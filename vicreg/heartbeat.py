"""A sign of life from every process of a run to all others, so that one that is lost ends them all, and is named.

A collective waits for a process that was killed, frozen or cut off until a time-out of many minutes, and then names
nobody. So a thread in each process writes a counter to the store that the processes met at, and reads those of the
others. It does so whatever its process is busy with: loading, compiling, writing a checkpoint.
"""

import json
import os
import select
import socket
import sys
import threading
import time
import uuid

import torch.distributed as dist

# what a process says of itself: it works; a collective broke; it failed because …; so it did, and that is printed; it
# is done and waits for the others; it has stopped listening
CALM, CUT, FAILED, TOLD, DONE, AWAY = "calm", "cut off", "failed", "told", "done", "away"
GO_ON = "start the same command again; pretraining goes on from its last checkpoint"
_running = None  # one process is in one run at a time


def complain(words):
    """Print one line on stderr, as every script ends when something is wrong."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"{name}: {words}", file=sys.stderr, flush=True)


def start(rank, world_size, lost_after, timeout):
    """Begin to beat and to listen. The store at MASTER_ADDR:MASTER_PORT must be up.

    Args:
        rank, world_size: of this process. lost_after: seconds without a sign of life until a process counts as lost.
        timeout: timedelta to wait for the store.
    """
    global _running
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # a connection of its own: the process group's blocks while a collective is set up
    store = dist.TCPStore(*address, is_master=False, timeout=timeout, wait_for_workers=False)
    # and one that is never written to: it shows that the store is gone, which the store itself meets with a C++ trace
    line = socket.create_connection(address, timeout.total_seconds())
    _running = Heartbeat(store, line, rank, world_size, lost_after)


def running():
    """The Heartbeat of this process, or None."""
    return _running


def leave():
    """Say goodbye: wait until all others have come as far, and stop listening."""
    global _running
    beat, _running = _running, None
    if beat is not None:
        beat.leave()


class Other:
    """What is known of another process."""

    def __init__(self):
        self.value, self.state, self.host, self.words = None, CALM, "?", ""
        self.silent = 0.0  # seconds since its value changed, not counting those in which we did not look
        self.looked = False

    def note(self, value, waited):
        """Take what the store holds for it: the first look may find what an earlier attempt has left there."""
        if value == self.value or value is None:
            self.silent += waited
        else:
            _, _, state, self.host, words = json.loads(value)
            if self.looked:
                self.state, self.words = state, words
            self.silent = 0.0
        self.value, self.looked = value, True


class Heartbeat:
    """Two threads: one talks to the store and may be stuck there, one draws the conclusions and never waits.

    Args:
        store: TCPStore connection that nobody else uses. line: socket that ends when the store does.
        rank, world_size: of this process. lost_after: seconds.
    """

    def __init__(self, store, line, rank, world_size, lost_after):
        self._store, self._line, self._rank, self._lost_after = store, line, rank, lost_after
        self._keys = [f"vicreg/heartbeat/{number}" for number in range(world_size)]
        self._others = {number: Other() for number in range(world_size) if number != rank}
        # every process reads of every other: many processes do it less often
        self._every = min(lost_after / 8, max(1.0, world_size / 128))
        self._token, self._count, self._complete = uuid.uuid4().hex[:8], 0, False
        self._state, self._words = CALM, ""
        self._broken, self._unanswered = None, 0.0
        self._done, self._hurry, self._ending = threading.Event(), threading.Event(), threading.Lock()
        self._exchange(0.0)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch)]
        for thread in self._threads:
            thread.start()

    def _exchange(self, waited):
        """Write our value and read all others'."""
        if select.select([self._line], [], [], 0)[0]:
            raise ConnectionError("closed")
        self._write()
        self._complete = self._complete or self._store.check(self._keys)
        if self._complete:
            values = self._store.multi_get(self._keys)
        else:  # reading a key that is not there would wait for it
            values = [self._store.get(key) if self._store.check([key]) else None for key in self._keys]
        for number, other in self._others.items():
            other.note(values[number], waited)
        self._unanswered = 0.0

    def _write(self):
        self._count += 1
        mine = [self._token, self._count, self._state, socket.gethostname(), self._words]
        self._store.set(self._keys[self._rank], json.dumps(mine))

    def _talk(self):
        last = time.monotonic()
        while not self._done.is_set():
            self._hurry.wait(self._every)
            self._hurry.clear()
            # a process that was itself frozen finds hours gone by, and blames nobody for them
            now = time.monotonic()
            waited, last = min(now - last, 5 * self._every), now
            try:
                self._exchange(waited)
            except (RuntimeError, OSError, ValueError) as error:  # ValueError: not JSON, so no longer our store
                self._broken = str(error).partition("\n")[0]
                return

    def _watch(self):
        last = time.monotonic()
        while not self._done.wait(self._every / 2):
            now = time.monotonic()
            self._unanswered += min(now - last, 5 * self._every)
            last = now
            words = None if self._state != CALM else self._verdict(self._lost_after)
            if words is not None and self._ending.acquire(blocking=False):
                self._tell(words)
                os._exit(1)  # the main thread may wait in a collective for ever

    def _verdict(self, patience):
        """Why this run cannot go on, as seen from here: None where it can, "" where somebody else has said it."""
        others = self._others
        if any(other.state == TOLD for other in others.values()):
            return ""
        for number, other in others.items():
            if other.state == FAILED:
                return f"process {number} on {other.host}: {other.words}"
        if self._broken is not None or self._unanswered > patience:
            return self._store_lost()
        lost = [number for number in others if others[number].silent > patience and others[number].state in (CALM, CUT)]
        if not lost:
            return None
        first = min(lost, key=lambda number: (others[number].state == CUT, -others[number].silent))
        seconds = f"no sign of life for {others[first].silent:.0f} s"
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return f"lost process {first} on {others[first].host}{more} ({seconds}); {GO_ON}"

    def _store_lost(self):
        keeper, address = self._others.get(0), f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        how = "ended" if self._broken is not None else f"no answer for {self._unanswered:.0f} s"
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" or keeper is None:
            return f"lost the store at {address}, which torchrun keeps on the first machine ({how}); {GO_ON}"
        if keeper.state in (DONE, AWAY):
            return None
        keeper.silent = float("inf")
        return f"lost process 0 on {keeper.host}, which keeps the store at {address} ({how}); {GO_ON}"

    def _speaks(self):
        """True in the first process that is still there: one line is enough."""
        alive = [number for number, other in self._others.items() if other.silent <= 2 * self._every]
        return self._rank <= min((n for n in alive if self._others[n].state in (CALM, CUT)), default=self._rank)

    def _tell(self, words):
        """Print, or leave it to another process, and stay until the others can know: launchers kill who is left."""
        if words and self._speaks():
            complain(words)
            self._say(TOLD, words)
        time.sleep(3 * self._every)

    def _say(self, state, words=""):
        self._state, self._words = state, words
        self._hurry.set()

    def _end_alone(self):
        """Let only one thread end this process."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()  # the other thread is about to exit

    def fail(self, words, print_it=True):
        """Tell all processes why this one ends; the first one prints it, so that each mistake is seen once.

        Args:
            words: the message. print_it: False where it has been shown already.
        """
        self._end_alone()
        if self._rank == 0 or not print_it:
            if print_it:
                complain(words)
            self._say(TOLD, words)
            time.sleep(3 * self._every)
            return
        self._say(FAILED, words)
        until = time.monotonic() + 5 * self._every
        while time.monotonic() < until and self._broken is None:
            time.sleep(self._every / 20)
            self._hurry.set()
            if self._others[0].state == TOLD:
                return
        complain(f"process {self._rank} on {socket.gethostname()}: {words}")

    def cut_off(self, words):
        """Find out who is missing, after a collective has failed, and say so.

        Args:
            words: what the collective said.
        """
        self._end_alone()
        self._say(CUT)
        until, found = time.monotonic() + 4 * self._every, None
        while found is None and time.monotonic() < until:
            time.sleep(self._every / 20)
            self._hurry.set()
            found = self._verdict(2.5 * self._every)
        self._tell(f"lost contact with another process ({words}); {GO_ON}" if found is None else found)

    def leave(self):
        """Wait for all others to come as far, as long as they give signs of life; then stop listening.

        The first process, which may keep the store, is the last to go.
        """
        self._say(DONE)
        self._wait_while((CALM,), self._lost_after)
        if self._rank == 0:
            self._wait_while((CALM, DONE), 3 * self._every)
        self._done.set()
        self._hurry.set()
        self._threads[0].join(self._every)
        if self._broken is None and not self._threads[0].is_alive():
            self._state = AWAY
            self._write()

    def _wait_while(self, states, patience):
        """Wait for as long as another process is in one of the states, and gives signs of life."""
        while self._broken is None and self._unanswered <= patience:
            waiting = [other for other in self._others.values() if other.state in states]
            if not waiting or any(other.silent > patience for other in waiting):
                return
            time.sleep(self._every / 20)
            self._hurry.set()
