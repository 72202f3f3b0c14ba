#!/bin/bash
# celforge join: joins a folder of datasets, by linking their files or rewriting all clips.
set -u
cd "$(dirname "$0")/../.."
. tests/cli/support.sh
cd "$work" || exit 1

for part in 1 2; do
  run "$celforge" synth "parts/$part" --clips 3 --frames 2 --size 16x16 --seed "$part" --clips-per-shard 2
  result $code "part $part"
done

succeeds "join" "$celforge" join all parts
[ "all/shard-00003.h5" -ef "parts/2/shard-00001.h5" ]
result $? "its shards are links to the parts' files"
run "$celforge" info all
grep -q 'clips  *6 in 4 shards' "$work/out"
result $? "six clips in four shards"
refuses "join into an existing dataset" 64 "all: already holds a dataset" "$celforge" join all parts

succeeds "join --clips-per-shard" "$celforge" join rewritten parts --clips-per-shard 6
run "$celforge" info rewritten
grep -q 'clips  *6 in 1 shard' "$work/out"
result $? "six clips in one shard"

rm -r parts
succeeds "without the parts: verify" "$celforge" verify all
tiny_config tiny.yaml all run
succeeds "without the parts: train" "$celforge" train tiny.yaml

run "$celforge" synth mixed/1 --clips 1 --frames 2 --size 16x16
run "$celforge" synth mixed/2 --clips 1 --frames 3 --size 16x16
refuses "clips of two lengths" 65 "mixed/2: frames is 3, expected 2 as in mixed/1" "$celforge" join both mixed
[ ! -e both ]
result $? "nothing is written"
done_testing
