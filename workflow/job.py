"""One job of a table, as its rule in the Snakefile calls it:

    python -m workflow.job PLAN STAGE NAME ATTEMPT DRIVER UNDER_WAY OUTPUT -- command -- command

The commands are executed one after the other; the last leaves a notebook at UNDER_WAY, which is then put at OUTPUT as a
whole, with what it depends on (`workflow.identity`) in its metadata. While that has not happened, a text file beside
UNDER_WAY (`Job.reason`) says why, in a sentence. What the library refuses is not executed again at a second attempt.

All processes of a job end when DRIVER does, the process of the Snakemake that started it, even by a kill. Two
Snakemakes with the same job execute it once: whoever comes second waits for a lock, which the system drops when its
holder ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

FINAL = ("InputError: ", "NotFound: ", "RunError: ")  # of cause_lib.errors: another attempt would say the same
STOPPED = "it was stopped before its end: give the same command again"


def main(arguments: list[str]) -> int:
    job, commands = arguments[:arguments.index("--")], [[]]
    for word in arguments[len(job) + 1:]:
        commands.append([]) if word == "--" else commands[-1].append(word)
    plan, stage, name, attempt, driver, under_way, output = job
    entry = next(entry for key, entry in json.loads(Path(plan).read_text(encoding="utf8")).items()
                 if key.startswith(f"{stage}/") and entry["executed"] == name)
    notebook, reason = Path(under_way), Path(entry["reason"])
    reason.parent.mkdir(parents=True, exist_ok=True)
    threading.Thread(target=end_with, args=(int(driver),), daemon=True).start()
    if entry["refused"]:
        return _ended(reason, entry["refused"])
    if int(attempt) > 1 and reason.is_file() and (said := reason.read_text(encoding="utf8")).startswith(FINAL):
        return _ended(reason, said)
    with _alone(reason.with_suffix(".lock")):
        if Path(output).is_file():  # by another Snakemake, meanwhile
            return 0
        reason.write_text(STOPPED, encoding="utf8")
        notebook.unlink(missing_ok=True)
        make_way(entry.get("old", []))
        for command in commands:
            if code := subprocess.run(command).returncode:
                return _ended(reason, why(notebook, code))
        executed = json.loads(notebook.read_text(encoding="utf8"))
        executed["metadata"]["cause"] = entry["identity"]
        beside = notebook.with_suffix(".whole")
        beside.write_text(json.dumps(executed, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
        os.replace(beside, output)
        for done in (notebook, reason):
            done.unlink()
    return 0


def make_way(old: list[str]) -> None:
    """Puts aside what other numeric code made, so that the job makes it anew; another job may have done so already."""
    if old:  # else nothing of the library is needed, which takes seconds to import
        from cause_lib.runs.store import put_aside

        for folder in map(Path, old):
            if place := put_aside(folder):
                print(f"{folder} was made by another version of the library: it is put aside, at {place}.")


def why(notebook: Path, code: int) -> str:
    """Why commands that leave a notebook have ended with this code: the error in it, `Name: sentence`, if there is."""
    with contextlib.suppress(OSError, ValueError):
        for cell in json.loads(notebook.read_text(encoding="utf8"))["cells"]:
            for shown in cell.get("outputs", ()):
                if shown["output_type"] == "error":
                    return f"{shown['ename']}: {' '.join(shown['evalue'].split())}"
    return f"it ended with code {code} and left no error: see what it printed"


def end_with(driver: int) -> None:
    """Waits for another process to end, and then ends this one and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(driver)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


@contextlib.contextmanager
def _alone(path: Path) -> Any:
    """Holds a lock; where the file system has none, goes on without."""
    lock = FileLock(path, fallback_to_soft=False)
    with contextlib.suppress(OSError):
        lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)  # while it is ours
            lock.release()


def _ended(reason: Path, said: str) -> int:
    reason.write_text(said, encoding="utf8")
    print(said, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
