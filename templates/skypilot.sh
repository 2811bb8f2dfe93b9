# skypilot.sh: what each node of a SkyPilot task runs, in the folder of its workdir: the training, and whole checkpoints
# to the bucket and back.
#
# Fed by GPTOPS_TRAIN_YAML above, by the task's envs: RUN (the run's name: the same one goes on, another begins afresh),
# GPTOPS_STAGE, GPTOPS_PROCESSES; and by SkyPilot: SKYPILOT_NODE_RANK, SKYPILOT_NUM_NODES, SKYPILOT_NODE_IPS.
#
# The training writes to its own disk, because a checkpoint is published by renaming a folder, which mounted buckets do
# badly or not at all. What is whole there (it has its MANIFEST.json) is copied to the bucket, the manifest last; on
# the way back the trainer verifies it by that manifest, and goes on from the newest that is whole.
set -eu
run=runs/$RUN
bucket=${GPTOPS_BUCKET:-/checkpoints}/$RUN
mine=$bucket/node-$SKYPILOT_NODE_RANK

copy_whole() { # from $1 to $2, what is not there yet
    for manifest in "$1"/step_*/MANIFEST.json; do
        [ -f "$manifest" ] || continue
        from=${manifest%/MANIFEST.json}
        to=$2/${from##*/}
        [ ! -f "$to/MANIFEST.json" ] || continue
        mkdir -p "$to"
        (cd "$from" && find . -type f ! -name MANIFEST.json) | while IFS= read -r file; do
            mkdir -p "$to/$(dirname "$file")" && cp "$from/$file" "$to/$file"
        done && cp "$manifest" "$to/MANIFEST.json" || echo "could not copy $from to $2" >&2
    done
}

# Where the weights are not spread, the first node alone writes, and all begin from what it wrote.
mkdir -p "$run/checkpoints"
if [ -d "$mine" ]; then copy_whole "$mine" "$run/checkpoints"; else copy_whole "$bucket/node-0" "$run/checkpoints"; fi
printf %s "$GPTOPS_TRAIN_YAML" >"$run/train.yaml"

set -- --standalone
if [ "$SKYPILOT_NUM_NODES" -gt 1 ]; then
    first=$(printf '%s\n' "$SKYPILOT_NODE_IPS" | head -n 1)
    here=$(printf '%s\n' "$SKYPILOT_NODE_IPS" | sed -n "$((SKYPILOT_NODE_RANK + 1))p")
    is_host=$([ "$SKYPILOT_NODE_RANK" -eq 0 ] && echo true || echo false)
    set -- --nnodes="$SKYPILOT_NUM_NODES" --rdzv-backend=c10d --rdzv-endpoint="$first:29400" --rdzv-id="$RUN" \
        --rdzv-conf="is_host=$is_host,join_timeout=600" --local-addr="$here"
fi
python -m torch.distributed.run "$@" --nproc-per-node="$GPTOPS_PROCESSES" \
    -m trainer "$GPTOPS_STAGE" --config "$run/train.yaml" "out_dir=$run" &
training=$!
trap 'kill "$training" 2>/dev/null' TERM INT
(while sleep 30 >/dev/null 2>&1; do copy_whole "$run/checkpoints" "$mine"; done) &
copying=$!
code=127
while kill -0 "$training" 2>/dev/null; do wait "$training" && code=0 || code=$?; done
kill "$copying" 2>/dev/null || :
copy_whole "$run/checkpoints" "$mine"
exit "$code"
