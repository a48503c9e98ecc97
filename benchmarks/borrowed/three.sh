#!/bin/bash
# Third command: the same work beside TRL 1.12.0, and with the project's own version of transformers.
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4 TQDM_DISABLE=1 HF_HUB_OFFLINE=1
CARRY=${CARRY:-.carry}; OUT=${OUT:-/tmp/out}; mkdir -p "$OUT"
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site $CARRY/*.whl
export PYTHONPATH=$PWD:/tmp/site
timeout 170 python3 benchmarks/bench_gpu.py $TINY --seconds ${SECONDS_BENCH:-120} --out "$OUT/gpu523.json" \
  --only TRL rollout\ 64x256 rollout\ 256x512 ragged 2>&1 | grep -v USDT | tee "$OUT/gpu523.txt"
