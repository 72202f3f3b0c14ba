#!/bin/bash
# celforge bench scaling and bench comm: tables, JSON, equal results for equal seeds, error messages.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
clusters=$PWD/configs/clusters
cd "$work" || exit 1
tiny_config tiny.yaml data run
h200=(--cluster "$clusters/h200-infiniband.yaml")
step=("$celforge" bench scaling tiny.yaml --frames 2 --size 32x32 --set train.global_batch=1)

succeeds "bench scaling of a config on a cluster of GPUs" "${step[@]}" "${h200[@]}" --json rows.json --save-trace step.json
cp out first
grep -E '^ +[0-9]+ +[0-9]+ ' out | awk '{print $1}' | tr '\n' ' ' >ranks
[ "$(cat ranks)" = "1 2 4 8 16 32 64 128 256 512 1024 2048 4096 " ]
result $? "the table has a row for each power of two up to 4096 ranks"
prints "the table shows the seed" "64 simulated steps, seed 1"
python3 - <<'PYTHON' >out 2>err
import json
rows = json.load(open("rows.json"))["rows"]
assert [row["ranks"] for row in rows] == [2**i for i in range(13)]
for row in rows:
    parts = sum(row[key + "_seconds"] for key in ("compute", "straggling", "exposed", "data", "checkpoint"))
    assert abs(parts - row["step_seconds"]) <= 1e-9 * row["step_seconds"], row
    assert 0 < row["goodput"] <= 1 and 0 < row["efficiency"] <= 1.0001, row
    assert abs(row["efficiency"] * row["step_seconds"] - rows[0]["step_seconds"]) <= 1e-9
assert rows[0]["exposed_seconds"] == 0 < rows[-1]["exposed_seconds"]
PYTHON
result $? "rows.json: the parts add up to the step time, and the efficiency is relative to one rank"
run "${step[@]}" "${h200[@]}"
cmp -s out first
result $? "the same seed gives the same table"
run "${step[@]}" "${h200[@]}" --seed 2
! cmp -s out first
result $? "another seed gives another table"
run "$celforge" bench scaling step.json "${h200[@]}"
diff out first >diff
[ "$code" -eq 0 ] && cmp -s out first
result $? "the saved trace gives the same table"
succeeds "--ranks" "$celforge" bench scaling step.json "${h200[@]}" --ranks 3,24
[ "$(grep -cE '^ +(3|24) ' out)" -eq 2 ]
result $? "--ranks: the table has only these numbers of ranks"
succeeds "a cluster file that asks for measured op times" "${step[@]}" \
  --cluster "$clusters/this-machine.yaml" --steps 1 --ranks 1,2
prints "the output tells that op times were measured" "op times measured"
succeeds "bench scaling without a config simulates all-reduces" "$celforge" bench scaling "${h200[@]}" --ranks 8
prints "all-reduces are listed by algorithm" "hierarchical"

succeeds "--cluster-set" "$celforge" bench scaling step.json "${h200[@]}" --ranks 1,4096 --cluster-set node.ranks=16 \
  --cluster-set intra_node.latency_us=50
[ "$(grep -cE '^ +4096 +256 ' out)" -eq 1 ] && grep -qF "with node.ranks=16" out
result $? "--cluster-set changes the number of nodes and is printed"
refuses "--cluster-set with an unknown key" 64 "--cluster-set intra_node.lag=1: unknown key" \
  "$celforge" bench scaling step.json "${h200[@]}" --cluster-set intra_node.lag=1

refuses "bench scaling without --cluster" 64 "--cluster" "$celforge" bench scaling tiny.yaml
refuses "an invalid config" 64 "celforge: --set model.local_enhancers=1: needs model.generator: pix2pixhd" \
  "${step[@]}" "${h200[@]}" --set model.local_enhancers=1
refuses "a number of ranks that does not fill whole nodes" 64 "12 ranks" \
  "$celforge" bench scaling step.json "${h200[@]}" --ranks 8,12
refuses "more ranks than the cluster has" 64 "8192 ranks" "$celforge" bench scaling step.json "${h200[@]}" --ranks 8192
refuses "an invalid list of ranks" 64 '"8,x"' "$celforge" bench scaling step.json "${h200[@]}" --ranks 8,x
refuses "measured op times for a trace without them" 64 "measured" "$celforge" bench scaling step.json --json none.json \
  --cluster "$clusters/this-machine.yaml"
nothing_left "a refused simulation writes no JSON" none.json
printf 'node:\n  ranks: 8\nintra_node:\n  bandwith: 3\n' >bad.yaml
refuses "a misspelt key in a cluster file" 64 \
  'bad.yaml:4:3: intra_node.bandwith: unknown key; did you mean "intra_node.bandwidth"' \
  "$celforge" bench scaling step.json --cluster bad.yaml
echo '{"format": "celforge-step-trace"}' >bad.json
refuses "an incomplete trace" 65 "bad.json: name: missing" "$celforge" bench scaling bad.json "${h200[@]}"
refuses "bench step without a config" 64 "PATH is missing" "$celforge" bench step
refuses "bench comm on one rank" 64 "mpirun -np 2" "$celforge" bench comm

if command -v mpirun >/dev/null; then
  succeeds "bench comm on two ranks" mpirun --oversubscribe -np 2 "$celforge" bench comm --json comm.json
  python3 - <<'PYTHON' >out 2>err
import json
found = json.load(open("comm.json"))
sizes = found["sizes"]
assert found["ranks"] == 2 and [size["bytes"] for size in sizes] == [1024 * 4**i for i in range(9)]
for size in sizes:  # bus bandwidth is 2(n-1)/n times the algorithm bandwidth: the same for two ranks
    assert size["seconds"] > 0 and abs(size["bus_gb_per_second"] / size["gb_per_second"] - 1) < 1e-9
assert sizes[-1]["seconds"] > 20 * sizes[0]["seconds"]
assert found["gb_per_second"] > 0 and found["latency_seconds"] >= 0 and found["copy_gb_per_second"] > 0
PYTHON
  result $? "comm.json: nine message sizes, and the latency and bandwidth fitted to them"
else
  skip "bench comm on two ranks" "no mpirun"
fi
done_testing
