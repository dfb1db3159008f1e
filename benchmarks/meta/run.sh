#!/bin/sh
# The two rows of benchmarks/README.md that were measured before experiment.yaml: the control, and sketch-0 with the options that its preset had then.
#   ZOFO_DATA=... sh benchmarks/meta/run.sh OUT SECONDS SEED control|sketch-0        results: OUT/*.json
set -e
out=$1 seconds=$2 seed=$3 row=$4
mkdir -p "$out"
model=smollm2-135m mix="--mixture class-to-class --dtype bf16 --data.max_length 128" target=smollm2-135m
if [ "$row" = sketch-0 ]; then
    target=$out/runs/sketch-0-$seed
    zofo train --model $model $mix --seed "$seed" --seconds "$seconds" --steps 100000 --run.test false --run.eval_every 0 --run.save_every 100000 \
        --data.validation_rows 8 --data.upper_share 0.3333333333333333 --run.dir "$out/runs" --run "sketch-0-$seed" --preset meta-sketch-lora \
        --method.nu 100 --method.lr_p 5e-4 --method.lr_theta 2e-4 --method.coupling outer --method.lam 0 > "$out/sketch-0-$seed.log" 2>&1
fi
zofo adapt "$target" $mix --data.test_rows 60 --shots 4 --steps 10 --draws 5 --seed "$seed" --dir "$out/runs" --json "$out/$row-$seed.json" > "$out/$row-$seed.txt" 2>&1
