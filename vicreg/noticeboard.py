"""A board in the first process where every process pins a note and reads all others', over plain sockets.

PyTorch's own store would do, but it meets the death of its keeper with pages of C++ frames on stderr.
"""

import json
import socket
import threading


class Board:
    """The board itself. Serves each reader in a thread that waits on its socket.

    Args:
        size: how many processes. name: what readers must know; strangers are sent away.
    """

    def __init__(self, size, name):
        self._notes, self._name = [None] * size, name
        family = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
        self._server = socket.create_server(("", 0), backlog=size, **family)
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def exchange(self, number, note):
        """Pin a process's note; returns the notes of all, None where there is none yet."""
        self._notes[number] = note
        return list(self._notes)

    def _accept(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    name, number, note = json.loads(line)
                    if name != self._name:
                        return
                    lines.write(json.dumps(self.exchange(number, note)) + "\n")
                    lines.flush()
        except (OSError, ValueError):  # the reader is gone, or speaks of other things
            return

    def close(self):
        """Let nobody else in."""
        self._server.close()


class Line:
    """A line to the board of another process.

    Args:
        address: (host, port). name: of the board. timeout: seconds to wait for an answer.

    Raises:
        OSError: nobody answers there.
    """

    def __init__(self, address, name, timeout):
        self._name, self._socket = name, socket.create_connection(address, timeout)
        self._file = self._socket.makefile("rw")

    def exchange(self, number, note):
        """As ``Board.exchange``.

        Raises:
            OSError, ValueError: the board is gone.
        """
        self._file.write(json.dumps([self._name, number, note]) + "\n")
        self._file.flush()
        return json.loads(self._file.readline())

    def close(self):
        """Hang up."""
        self._socket.close()
