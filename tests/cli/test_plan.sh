#!/bin/bash
# train --plan: programs, FLOPs and memory of a step, of one rank and of two, without anything being made.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1
"$celforge" synth data --clips 4 --frames 2 --size 32x32 >out 2>err || exit 1
tiny_config tiny.yaml data run
bytes() { sed -n 's/^  in all .*(\([0-9]*\) bytes)$/\1/p' out; }

succeeds "a plan" "$celforge" train tiny.yaml --plan
says "its programs" "program generator, last micro-batch on cpu"
says "their arena" "arena: values and workspaces"
whole=$(bytes)
[ "${whole:-0}" -gt 0 ]
result $? "and what it takes in all"
nothing_left "nothing was made" run
succeeds "a plan with larger micro-batches" "$celforge" train tiny.yaml --plan --set train.micro_batch=2
[ "$(bytes)" -gt "$whole" ]
result $? "takes more"
succeeds "a plan for two ranks" mpirun --oversubscribe -np 2 "$celforge" train tiny.yaml --plan
says "all-reduces gradients" "all-reduce buckets"
[ "$(grep -c '^memory of the device' out)" -eq 1 ]
result $? "and is printed once"
refuses "a plan of a config that is none" 64 "train.micro_batch" "$celforge" train tiny.yaml --plan --set train.micro_batch=3
succeeds "a plan of a step without a dataset" "$celforge" bench step tiny.yaml --frames 2 --size 32x32 --plan
says "says what it takes" "memory of the device"
! grep -q "seconds a step" out
result $? "and times nothing"
succeeds "a step with the peaks of its device" "$celforge" bench step tiny.yaml --frames 2 --size 32x32 --steps 1 --peak-gflops 100 --peak-gbps 10
says "shows the floor of each op" "floor ms"

done_testing
