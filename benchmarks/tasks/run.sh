#!/usr/bin/env bash
# SmolLM2-135M without training: zero-shot on every task, 8-shot on the twelve main ones; a JSON a task beside this file.
# Needs ZOFO_DATA. What is there already is not run again. `table.py` makes the table.
set -euo pipefail
cd "$(dirname "$0")"
ZOFO=${ZOFO:-zofo}
MAIN="sst2 rte cb boolq wsc wic multirc copa record winogrande squad drop"
OTHERS=$($ZOFO ls tasks | cut -f1 | grep -e '^crossfit/' -e '^reviews$')

here=$PWD

score() { # task, shots
  out="$2-shot/${1//\//-}.json"
  mkdir -p "$2-shot"
  [ -e "$out" ] || $ZOFO eval smollm2-135m --task "$1" --shots "$2" --dtype bf16 --data.test_rows 1000 --out "$here/$out"
}

for task in $MAIN; do score "$task" 0; done
for task in $MAIN; do score "$task" 8; done
for task in $OTHERS; do score "$task" 0; done
