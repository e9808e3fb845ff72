#!/usr/bin/env bash
# The long CIFAR-10 rows on a CPU: one after another on one core, at the lowest priority, each saved every epoch.
# Call it once per core: a row that another call is training is passed over. It needs Linux (util-linux).
#
#   experiments/long_runs.sh DATA_DIR [CORE]
#
# DATA_DIR holds cifar10 (see README.md). The rows run from a work tree of their own, runs/long/tree, at the commit that was
# current when this was first called, so that later changes do not touch them. The same command goes on where a run was
# stopped; a finished row is passed over. Shorter schedules than the published ones: what experiments/README.md calls them.
set -euo pipefail
data="$(cd "${1:?give the folder that holds cifar10}" && pwd)"
core="${2:-0}"
root="$(git -C "$(dirname "$0")" rev-parse --show-toplevel)"
long="$root/runs/long"
mkdir -p "$long"
# One call at a time makes the tree.
exec 9>"$long/setup.lock"
flock 9
[ -d "$long/tree" ] || git -C "$root" worktree add --detach "$long/tree" HEAD
cd "$long/tree"
[ -e bnn_jax/native/libbnn_native.so ] || "$root/.venv/bin/python" -m bnn_jax.kernels
exec 9>&-
export XLA_FLAGS=--xla_cpu_multi_thread_eigen=false
# One heap for all threads, or glibc gives XLA's memory back in every step (bnn_jax/command/heap.py).
export MALLOC_ARENA_MAX=1

# row RECIPE SCHEME OPTIONS...
row() {
    local workdir="$long/$1-$2"
    [ -e "$workdir/results.json" ] && return
    # 73: another call trains this row.
    flock --nonblock --conflict-exit-code 73 "$workdir.lock" nice -n 19 taskset -c "$core" \
        "$root/.venv/bin/python" -m "experiments.$1" --scheme="$2" --data_dir="$data" --workdir="$workdir" "${@:3}" \
        >>"$workdir.log" 2>&1 || [ $? = 73 ]
}

row cifar10_resnet20 BIREAL_L2 --epochs=100
row cifar10_resnet20 FLOAT --epochs=100
row cifar10_nin XNOR_PYTORCH_CIFAR --epochs=30 --width=0.5
row cifar10_nin BWN --epochs=30 --width=0.5
row cifar10_nin FLOAT --epochs=30 --width=0.5
row cifar10_resnet20 IRNET --epochs=100
row cifar10_resnet20 XNOR --epochs=100
row cifar10_vgg_small BNN --epochs=20 --width=0.5
row cifar10_vgg_small XNOR --epochs=20 --width=0.5
row cifar10_vgg_small FLOAT --epochs=20 --width=0.5
