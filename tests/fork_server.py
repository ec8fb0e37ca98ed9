"""A process that has imported everything, and forks others that run at once: a start costs seconds, a fork nothing.

Reads JSON lines and answers with one each: ``{"code", "environments", "out"}`` forks a process per environment (dict
of variables to set), with stdout and stderr in ``<out>.<number>``, and answers with their numbers;
``{"wait": pid}`` answers with the exit status as subprocess has it.
"""

import json
import os
import sys
import traceback


def child(code, variables, out):
    """Be the process: never returns."""
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, source in enumerate([os.open(os.devnull, os.O_RDONLY), file, file]):
        os.dup2(source, number)
    os.environ.update(variables)
    status = 0
    try:
        exec(code, {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def serve():
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = []
            for number, variables in enumerate(request["environments"]):
                pid = os.fork()
                if pid == 0:
                    child(request["code"], variables, f"{request['out']}.{number}")
                answer.append(pid)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    import timm  # noqa: F401

    from vicreg import main_vicreg_sn7  # noqa: F401
    from vicreg.common import trackers

    trackers.summary_writer()

    serve()
