#!/bin/sh
# What is measured on a GPU, in calls of under ten minutes each; each can be repeated, and goes on where it was cut off.
#
#   sh runs/benchmarks/gpu.sh speed            images a second, and the share of the chip's matrix rate
#   sh runs/benchmarks/gpu.sh train VARIANT [SEED]   plain, mixup, cutmix, patchmix or evolved: CIFAR-100, ResNet-18,
#                                                    200 epochs; call it again until it says that the run has ended
#   sh runs/benchmarks/gpu.sh table                  what there is of the runs so far
#
# CIFAR-10:                      GPU_RECIPE=cifar10 sh runs/benchmarks/gpu.sh train VARIANT [SEED]
# 50 images per class, split 1:  GPU_RECIPE=cifar10-50 GPU_NAME=wrn-split1 GPU_SET="model.name=wrn-16-8 model.width=128
#                                train.epochs=500 data.subset_start=50" sh runs/benchmarks/gpu.sh train VARIANT [SEED]
#
# It needs no ./run and no .venv: PYTHON names an interpreter with torch, torchvision, numpy, deap, pydantic, pyyaml,
# typer and safetensors (else .venv's, else python3). GPU_RECIPE, GPU_SET (words KEY=VALUE) and GPU_SECONDS change
# the recipe, any options and the length of a call; GPU_NAME, where options differ, the runs' names. A rehearsal on a CPU:
#   GPU_RECIPE=digits GPU_SET="train.epochs=2 data.subset=16 train.batch_size=16 model.width=8" sh runs/benchmarks/gpu.sh train plain
set -eu

root=$(CDPATH= cd -- "$(dirname -- "$0")/../.." && pwd)
python=${PYTHON:-}
[ -n "$python" ] || { [ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python" || python=python3; }
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
out=${EVOMIX_OUT:-$root/runs/out}
recipe=${GPU_RECIPE:-cifar100}
group=gpu-${GPU_NAME:-$recipe}
variants="plain mixup cutmix patchmix evolved"

evomix() {
    "$python" -P -m runs "$@"
}

ended() {
    [ -f "$1/log.jsonl" ] && grep -q '"event": *"end"' "$1/log.jsonl"
}

train() {
    variant=$1 seed=${2:-0}
    name="$group-$variant-s$seed"
    folder="$out/$name"
    if ended "$folder"; then
        printf 'gpu: %s has ended\n' "$name"
        return
    fi
    if [ -f "$folder/checkpoint/latest.json" ]; then
        set -- --resume "$name"
    else
        rm -rf "$folder" # it was cut off before its first checkpoint
        set -- "$recipe" -s "mix.name=$variant" -s "run.seed=$seed" -s "run.name=$name"
        for option in ${GPU_SET:-}; do
            set -- "$@" -s "$option"
        done
    fi
    status=0
    # On SIGINT a checkpoint is written and the command ends with 130.
    timeout -s INT -k 50 "${GPU_SECONDS:-530}" "$python" -P -m runs train "$@" || status=$?
    if ended "$folder"; then
        printf 'gpu: %s has ended\n' "$name"
    elif [ "$status" -eq 124 ] || [ "$status" -eq 130 ]; then
        printf 'gpu: %s is not done yet; call this again\n' "$name"
    else
        exit "$status"
    fi
}

table() {
    "$python" - "$out" "$group" $variants <<'PYTHON'
import json
import sys
from pathlib import Path

print(f"{'run':<28} {'epochs':>9} {'last':>7} {'median10':>9} {'train s':>9} {'search s':>9} {'images/s':>9}  device")
out, group, *variants = sys.argv[1:]
begun = [folder for variant in variants for folder in sorted(Path(out).glob(f"{group}-{variant}-s*"))]
for folder in begun:
    name = folder.name
    if not (folder / "log.jsonl").is_file():
        print(f"{name:<28} not begun")
        continue
    lines = (folder / "log.jsonl").read_text().splitlines()
    events = [event for line in lines if line.endswith("}") and "event" in (event := json.loads(line))]
    epochs = {event["epoch"]: event for event in events if event["event"] == "epoch"}
    start = next(event for event in events if event["event"] == "start")
    if not epochs:
        print(f"{name:<28} no epoch done")
        continue
    tests = [event["accuracy"] for _, event in sorted(epochs.items()) if event.get("accuracy") is not None]
    last = epochs[max(epochs)]
    final = sorted(tests[-10:])
    middle = (final[(len(final) - 1) // 2] + final[len(final) // 2]) / 2 if final else float("nan")
    batch = json.loads((folder / "config.json").read_text())["train"]["batch"]
    environment = json.loads((folder / "environment.json").read_text())
    print(
        f"{name:<28} {max(epochs):>4}/{start['epochs']:<4} {tests[-1] if tests else float('nan'):>7.2f} {middle:>9.2f} "
        f"{last['seconds']:>9.1f} {last['search_seconds']:>9.1f} {last['step'] * batch / last['seconds']:>9,.0f}  "
        f"{environment.get('device_name') or environment.get('device')}"
    )
PYTHON
}

case "${1:-}" in
speed) evomix bench speed ${2:+"$2"} ;;
train)
    case " $variants " in
    *" ${2:-none} "*) train "$2" "${3:-0}" ;;
    *) printf 'gpu: train takes one of: %s\n' "$variants" >&2 && exit 2 ;;
    esac
    ;;
table) table ;;
*) sed -n '2,18s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
