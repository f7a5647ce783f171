"""Commands as a user types them, each in a process of its own, forked from one that has imported what takes seconds to import."""
import os, runpy, signal, subprocess, sys, tempfile
from multiprocessing import get_context
from pathlib import Path

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["casm.cli", "casm.data_cli", "casm.eval_cli", "casm.experiments", "casm.temporal_lm", "matplotlib.pyplot"])


def hear_ctrl_c():
    "For `preexec_fn`: a batch system, or a shell in the background, has its children ignore it"
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def become(line, cwd, environ, folder):
    "In the fork: be the command"
    os.environ.clear(), os.environ.update(environ)
    os.chdir(cwd)
    for fd, name in ((1, "out"), (2, "err")): os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    sys.argv = line
    if line[0] == "casm":
        from casm.cli import main
        sys.exit(main())
    sys.path.insert(0, str(Path(line[0]).parent))
    runpy.run_path(line[0], run_name="__main__")


class Command:
    "`casm …` or `PATH.py …`, started"
    def __init__(self, *line, cwd=None, env=None):
        self.line, self.folder = [str(x) for x in line], tempfile.TemporaryDirectory()
        self.process = FORKS.Process(target=become, args=(self.line, str(cwd or os.getcwd()), dict(os.environ if env is None else env), self.folder.name))
        self.process.start()

    def result(self):
        "Exit code and what was printed, when it has ended"
        self.process.join()
        return subprocess.CompletedProcess(self.line, self.process.exitcode, *((Path(self.folder.name) / name).read_text(encoding="utf-8") for name in ("out", "err")))


def run(*line, **where): return Command(*line, **where).result()
