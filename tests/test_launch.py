"""What the launch scripts say fits what the command reads."""

import os
import subprocess

import pytest
import yaml
from absl import flags

from edm3d import train
from edm3d.training.distributed import ENVIRONMENT
from tests.configurations import ROOT


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())


def test_the_jobset_gives_each_pod_its_place(jobset):
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    told = {variable["name"]: variable for variable in container["env"]}
    coordinator, count, index = (told[name] for name in ENVIRONMENT)
    assert str(job["parallelism"]) == str(job["completions"]) == count["value"]
    assert job["completionMode"] == "Indexed" and "job-completion-index" in str(index["valueFrom"])
    words = [w.removeprefix("--").split("=") for w in container["command"] if w.startswith("--")]
    given = {name: value for name, value in words if not name.startswith("config")}
    assert train.DISTRIBUTED.name in given and all(name in flags.FLAGS for name in given)
    # <jobset>-<group>-<replica>-<pod>.<jobset>, as the JobSet controller names its pods
    name = jobset["metadata"]["name"]
    assert coordinator["value"].split(":")[0] == f"{name}-{group['name']}-0-0.{name}"


def test_a_pod_that_fails_or_is_stopped_starts_the_job_again(jobset):
    (group,) = jobset["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0 and job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"


GCLOUD = """#!/bin/bash
command="${@: -1}"
cd "$HOME/other" && mkdir -p launch && echo 'export PATH=$HOME/bin:$PATH' > launch/environment.sh
printf '%s\\n' "${@:1:$#-1}" > "$HOME/asked"
DIR=. exec bash -c "${command#--command=}"
"""


def test_the_tpu_script_runs_one_command_on_every_host(tmp_path):
    for name, body in {"gcloud": GCLOUD, "python": '#!/bin/bash\nprintf "%s\\n" "$@"\n'}.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
        path.chmod(0o755)
    (tmp_path / "other").mkdir()
    told = {"HOME": str(tmp_path), "TPU": "slice", "ZONE": "z", "CONFIG": "c.py", "DIR": "."}
    done = subprocess.run(
        ["bash", str(ROOT / "launch/tpu_pod.sh"), "--config.run=/a b"],
        env={**told, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    words = ["-m", "edm3d.train", "--distributed=tpu", "--config=c.py", "--config.run=/a b"]
    assert done.stdout.splitlines() == words
    assert "--worker=all" in (tmp_path / "asked").read_text().splitlines()
