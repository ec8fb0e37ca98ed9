"""A local server of files that answers byte ranges, as object stores do; in a process of its own.

GDAL may hold the lock of the interpreter while it waits for an answer, so that a thread could not give one.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Answers GET and HEAD, and prints the path and the range of each GET."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = Path(self.directory + self.path.partition("?")[0])
        data = path.read_bytes() if path.is_file() else b""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        part = data[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None] if asked else data
        self.send_response(404 if not data else 206 if asked else 200)
        if asked and data:
            self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            print(self.path, len(part), flush=True)
            self.wfile.write(part)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def serve(folder: Path, log: Path) -> Iterator[int]:
    """Serve a folder, and write path and length of each answer to a file; yields the port."""
    with log.open("w") as file, subprocess.Popen([sys.executable, __file__, folder], stdout=file) as process:
        try:
            while not log.read_text().endswith("\n"):
                if process.poll() is not None:
                    raise OSError("the server did not start")
            yield int(log.read_text())
        finally:
            process.kill()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=sys.argv[1]))
    print(server.server_address[1], flush=True)
    server.serve_forever()
