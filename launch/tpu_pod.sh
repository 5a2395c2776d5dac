#!/usr/bin/env bash
# Training on a Cloud TPU pod slice: the same command on every host of it, by gcloud.
#
#     export TPU=my-slice ZONE=us-east5-a CONFIG=configs/ards.py
#     bash launch/tpu_pod.sh --config.run=/shared/runs/ards --config.records=/shared/records
#
# TPU and ZONE name the slice. DIR (default edm3d) is where the repository lies on each host; run and
# records must lie on a file system that all hosts mount (Filestore). Run again, it goes on. A host
# that fails ends the others within a minute.
set -euo pipefail
words=$(printf ' %q' --distributed=tpu --config="$CONFIG" "$@")
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="
    cd '${DIR:-edm3d}' && EXTRAS=tpu && source launch/environment.sh &&
    exec python -m edm3d.train$words"
