#!/usr/bin/env bash
# SmolLM2-135M without training: zero-shot on every task, 8-shot on the twelve main ones; a JSON a task beside this file.
# Needs ZOFO_DATA. What is there already is not run again. `table.py` makes the table.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
ZOFO=${ZOFO:-zofo}
CHOICES="sst2 rte cb boolq wsc wic copa record winogrande"
LONG="multirc squad drop"
OTHERS=$($ZOFO ls tasks | cut -f1 | grep -e '^crossfit/' -e '^reviews$')

score() { # task, shots, test rows at most
  out="$2-shot/${1//\//-}.json"
  mkdir -p "$2-shot"
  [ -e "$out" ] || $ZOFO eval smollm2-135m --task "$1" --shots "$2" --dtype bf16 --data.test_rows "$3" --out "$here/$out"
}

for task in $CHOICES; do score "$task" 0 1000; done
for task in $CHOICES; do score "$task" 8 1000; done
for task in $OTHERS; do score "$task" 0 1000; done
score multirc 0 1000
for task in squad drop; do score "$task" 0 200; done # up to 32 tokens are written a row
for task in $LONG; do score "$task" 8 100; done # a prompt has 2,000 to 3,500 tokens: a thousand rows take 20 minutes
