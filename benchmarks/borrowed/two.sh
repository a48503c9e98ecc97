#!/bin/bash
# Second command: joins the model's pieces, then the whole chain alone, then more seeds side by side.
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${THREADS:-3} TQDM_DISABLE=1 HF_HUB_OFFLINE=1
CARRY=${CARRY:-.carry}; OUT=${OUT:-/tmp/out}; KEEP=${KEEP:-/tmp/keep}; mkdir -p "$KEEP" "$OUT"
cp $CARRY/p? "$KEEP/"
[ -f "$KEEP/model/model.safetensors" ] || { cat "$KEEP"/p? | xz -dc -T4 > "$KEEP/model.gguf" && mkdir -p "$KEEP/config" && tar xJf $CARRY/config.tar.xz -C "$KEEP/config"; }
[ -f "$KEEP/model/model.safetensors" ] || python3 $CARRY/unpack.py "$KEEP/model.gguf" "$KEEP/config" "$KEEP/model" || exit 1
rm -rf "$KEEP/run"; RUN="python3 benchmarks/borrowed/capitals.py --model $KEEP/model --out $KEEP/run $TINY"
T=$(date +%s)
timeout 240 $RUN rank reward ppo --beta 0.05 --seed 0 --seconds ${ALONE:-110} 2>&1 | tee "$OUT/alone.txt" | cut -c1-400
echo "alone: $(($(date +%s) - T)) s"
timeout 230 $RUN ppo --beta 0.0 --seed 0 --seconds ${BESIDE:-150} > "$OUT/b0s0.txt" 2>&1 &
timeout 230 $RUN ppo --beta 0.05 --seed 1 --seconds ${BESIDE:-150} > "$OUT/b5s1.txt" 2>&1 &
timeout 230 $RUN ppo --beta 0.0 --seed 1 --seconds ${BESIDE:-150} > "$OUT/b0s1.txt" 2>&1 &
timeout 230 $RUN ppo --beta 0.05 --seed 0 --dtype bfloat16 --tag=-bf16 --seconds ${BESIDE:-150} > "$OUT/bf16.txt" 2>&1 &
wait
tail -n 3 "$OUT"/b0s0.txt "$OUT"/b5s1.txt "$OUT"/b0s1.txt "$OUT"/bf16.txt | cut -c1-600
mkdir -p "$OUT/x"; cd "$KEEP/run"
for f in b0s0 b5s1 b0s1 bf16 alone; do cat "$OUT/$f.txt"; done > "$KEEP/run/console.txt"; rm -f "$OUT"/b*.txt
find . -name "*.jsonl" -o -name "*.json" -not -path "*/model/*" -o -name console.txt | tar cJf "$OUT/x/run.tar.xz" -T -
cp ppo-beta0.05-seed0/model/adapter_model.safetensors "$OUT/x/policy-adapter.safetensors"
cp reward/adapter_model.safetensors "$OUT/x/reward-adapter.safetensors"
cp reward/reward_head.safetensors ppo-beta0.05-seed0/model/value_head.safetensors "$OUT/x/"
ls -la "$OUT" "$OUT/x"
