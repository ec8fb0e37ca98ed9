"""A sign of life from every process of a run to all others, so that one that is lost ends them all, and is named.

A collective waits for a process that was killed, frozen or cut off until a time-out of many minutes, and then names
nobody. So a thread in each process pins a counter to a board in the first one, and reads those of the others. It does
so whatever its process is busy with: loading, compiling, writing a checkpoint.
"""

import contextlib
import os
import socket
import sys
import threading
import time

from vicreg.noticeboard import Board, Line

# what a process says of itself: it works; a collective broke; it failed because …; so it did, and that is printed; it
# is done and waits for the others; it has stopped listening
CALM, CUT, FAILED, TOLD, DONE, AWAY = "calm", "cut off", "failed", "told", "done", "away"
GO_ON = "start the same command again; pretraining goes on from its last checkpoint"
_running = None  # one process is in one run at a time


def complain(words):
    """Print one line on stderr, as every script ends when something is wrong."""
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    print(f"{name}: {words}", file=sys.stderr, flush=True)


def start(store, rank, world_size, lost_after, name):
    """Begin to beat and to listen.

    Args:
        store: where the first process says at which port of MASTER_ADDR its board is. rank, world_size: of this
            process. lost_after: seconds without a sign of life until a process counts as lost. name: of this attempt.

    Raises:
        ConnectionError: the first process cannot be reached there.
    """
    global _running
    if rank == 0:
        board = Board(world_size, name)
        store.set("board", str(board.port))
    else:
        address = os.environ["MASTER_ADDR"], int(store.get("board"))
        try:
            board = Line(address, name, max(10.0, 2 * lost_after))
        except OSError as error:
            raise ConnectionError(
                f"process {rank} on {socket.gethostname()} cannot reach the first one at {address[0]}:{address[1]} "
                f"({error}); open that way, or do without signs of life: --lost-after 0"
            ) from error
    _running = Heartbeat(board, rank, world_size, lost_after)


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

    def note(self, value, waited):
        """Take what the board shows of it, None before its first sign of life, after so many seconds."""
        if value == self.value:
            self.silent += waited
        else:
            _, self.state, self.host, self.words = value
            self.silent = 0.0
        self.value = value


class Heartbeat:
    """Two threads: one talks to the board and may be stuck there, one draws the conclusions and never waits.

    Args:
        board: a Board or a Line to one. rank, world_size: of this process. lost_after: seconds.
    """

    def __init__(self, board, rank, world_size, lost_after):
        self._board, self._rank, self._lost_after = board, rank, lost_after
        self._others = {number: Other() for number in range(world_size) if number != rank}
        # every process reads of every other: many processes do it less often
        self._every = min(lost_after / 8, max(1.0, world_size / 128))
        self._count, self._state, self._words = 0, CALM, ""
        self._broken, self._unanswered = False, 0.0
        self._done, self._hurry, self._ending = threading.Event(), threading.Event(), threading.Lock()
        self._exchange(0.0)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._watch)]
        for thread in self._threads:
            thread.start()

    def _exchange(self, waited):
        """Pin our note and read all others', so many seconds after the last time."""
        self._count += 1
        notes = self._board.exchange(self._rank, [self._count, self._state, socket.gethostname(), self._words])
        for number, other in self._others.items():
            other.note(notes[number], waited)
        self._unanswered = 0.0

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
            except (OSError, ValueError):  # ValueError: the last line was cut short
                self._broken = True
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
        if self._broken or self._unanswered > patience:
            return self._first_lost()
        lost = [number for number in others if others[number].silent > patience and others[number].state in (CALM, CUT)]
        if not lost:
            return None
        first = min(lost, key=lambda number: (others[number].state == CUT, -others[number].silent))
        seconds = f"no sign of life for {others[first].silent:.0f} s"
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return f"lost process {first} on {others[first].host}{more} ({seconds}); {GO_ON}"

    def _first_lost(self):
        first = self._others[0]
        if first.state in (DONE, AWAY):
            return None
        first.silent = float("inf")
        how = "it has ended" if self._broken else f"no answer for {self._unanswered:.0f} s"
        return f"lost process 0 on {first.host} ({how}); {GO_ON}"

    def _speaks(self):
        """True in the first process that is there and has come to the same end: one line is enough."""
        alike = [n for n, o in self._others.items() if o.state == self._state and o.silent <= 2 * self._every]
        return self._rank < min(alike, default=self._rank + 1)

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
        while time.monotonic() < until and not self._broken:
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

        The first process, which keeps the board and perhaps the store, is the last to go.
        """
        self._say(DONE)
        self._wait_while((CALM,), self._lost_after)
        if self._rank == 0:
            self._wait_while((CALM, DONE), 3 * self._every)
        self._done.set()
        self._hurry.set()
        self._threads[0].join(self._every)
        if not self._broken and not self._threads[0].is_alive():
            self._state = AWAY
            with contextlib.suppress(OSError, ValueError):  # the first may have waited long enough
                self._exchange(0.0)
        self._board.close()

    def _wait_while(self, states, patience):
        """Wait for as long as another process is in one of the states, and gives signs of life."""
        while not self._broken and self._unanswered <= patience:
            waiting = [other for other in self._others.values() if other.state in states]
            if not waiting or any(other.silent > patience for other in waiting):
                return
            time.sleep(self._every / 20)
            self._hurry.set()
