#!/bin/sh
# Meta-training on class-to-class at the size that is here: one row after another, each trained for so many seconds, then its unseen tasks.
#   ZOFO_DATA=... sh benchmarks/meta/run.sh OUT SECONDS SEED ROW...        rows: see below; results: OUT/*.json
set -e
out=$1 seconds=$2 seed=$3; shift 3
mkdir -p "$out"
model=smollm2-135m mix="--mixture class-to-class --dtype bf16 --data.max_length 128"
test="--data.test_rows 60"
train() { # NAME ARGS: a run of so many seconds, not tested by itself
    name=$1; shift
    zofo train --model $model $mix --seed $seed --seconds $seconds --steps 100000 --run.test false --run.eval_every 0 --run.save_every 100000 \
        --data.validation_rows 8 --run.dir "$out/runs" --run "$name-$seed" "$@" > "$out/$name-$seed.log" 2>&1
}
adapt() { # NAME TARGET ARGS: ten steps on four examples a class, five draws
    name=$1; shift
    zofo adapt "$@" $mix $test --shots 4 --steps 10 --draws 5 --seed $seed --dir "$out/runs" --json "$out/$name-$seed.json" > "$out/$name-$seed.txt" 2>&1
}
shown() { # NAME TARGET SHOTS ARGS: demonstrations, five draws
    name=$1 target=$2 shots=$3; shift 3
    zofo eval "$target" $mix $test --shots $shots --draws 5 --seed $seed --dir "$out/runs" --out "$out/$name-$seed.json" "$@" > "$out/$name-$seed.txt" 2>&1
}
for row in "$@"; do case $row in
    adapt-*) adapt "${row#adapt-}" "$out/runs/${row#adapt-}-$seed" ;;
    control) adapt control $model ;;
    icl) shown icl $model 16 --data.shot_length 128 ;;
    multi-task) train multi-task --preset multi-task-lora --method.lr_p 1e-3; adapt multi-task "$out/runs/multi-task-$seed" ;;
    reptile) train reptile --preset reptile-lora --method.lr_p 1e-3; adapt reptile "$out/runs/reptile-$seed" ;;
    metaicl) train metaicl --preset metaicl --data.shot_length 128; shown metaicl "$out/runs/metaicl-$seed" 16 ;;
    channel) train channel --preset metaicl-channel --data.shot_length 128; shown channel "$out/runs/channel-$seed" 16 ;;
    bilevel) train bilevel --preset meta-lora --method.T 2 --method.tasks 3; adapt bilevel "$out/runs/bilevel-$seed" ;;
    sketch) train sketch --preset meta-sketch-lora --method.rule adam --method.lr_theta 2e-4 --method.lam 1; adapt sketch "$out/runs/sketch-$seed" ;;
    sketch-0) train sketch-0 --preset meta-sketch-lora --method.rule adam --method.lr_theta 2e-4 --method.coupling outer --method.lam 0; adapt sketch-0 "$out/runs/sketch-0-$seed" ;;
    *) echo "no row $row" >&2; exit 2 ;;
esac; done
