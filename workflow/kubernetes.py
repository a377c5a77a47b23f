"""Jobs of a table on a Kubernetes cluster, through `kubectl`: what Snakemake calls to submit, watch and cancel one.

    python -m workflow.kubernetes submit --cpus 8 --memory 16000 --gpus 1 --minutes 720 jobscript.sh   prints its name
    python -m workflow.kubernetes status cause-1a2b3c4d      prints running, success or failed
    python -m workflow.kubernetes cancel cause-1a2b3c4d ...

A job runs in the image that CAUSE_IMAGE names, which has this project's packages. The persistent volume claim that
CAUSE_CLAIM names is mounted at CAUSE_MOUNT, the same path as where Snakemake runs, and holds the project, its runs,
data and weights: stages hand artefacts to each other through it. Kubernetes never tries a job again; Snakemake does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

CARRIED = ("CAUSE_DATA", "CAUSE_WEIGHTS")


def manifest(script: str, *, cpus: int, memory: int, gpus: int, minutes: int) -> dict[str, Any]:
    """A batch/v1 Job for a job script of Snakemake's. memory in MB.

    Raises:
        ValueError: CAUSE_IMAGE, CAUSE_CLAIM or CAUSE_MOUNT is not set.
    """
    try:
        image, claim, mount = (os.environ[name] for name in ("CAUSE_IMAGE", "CAUSE_CLAIM", "CAUSE_MOUNT"))
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is not set: export CAUSE_IMAGE (an image with this project's packages), "
                         "CAUSE_CLAIM (a persistent volume claim) and CAUSE_MOUNT (where it is mounted).") from None
    wanted = {"cpu": str(cpus), "memory": f"{memory}M"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    container = {
        "name": "job", "image": image, "command": ["bash", script], "workingDir": os.getcwd(),
        "resources": {"requests": wanted, "limits": wanted},
        "env": [{"name": name, "value": os.environ[name]} for name in CARRIED if name in os.environ],
        "volumeMounts": [{"name": "cause", "mountPath": mount}],
    }
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": f"cause-{uuid.uuid4().hex[:8]}", "labels": {"app": "cause-book"}},
        "spec": {
            "backoffLimit": 0, "activeDeadlineSeconds": 60 * minutes, "ttlSecondsAfterFinished": 86_400,
            "template": {"spec": {
                "restartPolicy": "Never", "containers": [container],
                "volumes": [{"name": "cause", "persistentVolumeClaim": {"claimName": claim}}],
            }},
        },
    }


def state(job: dict[str, Any]) -> str:
    """What Snakemake wants to know of a Job as `kubectl get -o json` gives it."""
    done = {condition["type"] for condition in job.get("status", {}).get("conditions", [])
            if condition["status"] == "True"}
    return "failed" if "Failed" in done else "success" if "Complete" in done else "running"


def kubectl(*arguments: str, given: str | None = None) -> str:
    """What kubectl prints; subprocess.CalledProcessError if it fails, its own message on stderr."""
    return subprocess.run(["kubectl", *arguments], input=given, text=True, stdout=subprocess.PIPE, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit")
    for name in ("cpus", "memory", "gpus", "minutes"):
        submit.add_argument(f"--{name}", type=int, required=True)
    submit.add_argument("script")
    commands.add_parser("status").add_argument("name")
    commands.add_parser("cancel").add_argument("names", nargs="+")
    given = vars(parser.parse_args())
    command = given.pop("command")
    if command == "submit":
        try:
            job = manifest(str(Path(given.pop("script")).resolve()), **given)
        except ValueError as error:
            sys.exit(str(error))
        kubectl("create", "-f", "-", given=json.dumps(job))
        print(job["metadata"]["name"])
    elif command == "status":
        print(state(json.loads(kubectl("get", "job", given["name"], "-o", "json"))))
    else:
        kubectl("delete", "job", "--ignore-not-found", *given["names"])


if __name__ == "__main__":
    main()
