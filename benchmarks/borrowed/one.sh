#!/bin/bash
# First command on a borrowed card: what it is, what works there, how fast rollout, update and an iteration are.
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 OMP_NUM_THREADS=4 TQDM_DISABLE=1 HF_HUB_OFFLINE=1
CARRY=${CARRY:-.carry}; OUT=${OUT:-/tmp/out}; KEEP=${KEEP:-/tmp/keep}; mkdir -p "$KEEP" "$OUT"
cp $CARRY/p? "$KEEP/"
nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.sm --format=csv | tee "$OUT/card.txt"
timeout 70 python3 $CARRY/probe.py ${DEVICE:-cuda} 2>&1 | tee "$OUT/probe.jsonl"
timeout 45 python3 -m pytest tests/sampling/test_decoding.py --confcutdir=tests -q -x 2>&1 | tail -4 | tee "$OUT/decoding.txt"
timeout 220 python3 benchmarks/bench_gpu.py $TINY --seconds ${SECONDS_BENCH:-170} --out "$OUT/gpu.json" \
  --only rollout\ 64 rollout\ 4 generate\ 64x256 iteration\ 64x256 iteration\ 4x8 2>&1 | grep -v USDT | tee "$OUT/gpu.txt"
