#!/bin/sh
# A night with GNU parallel, over this machine or over those of --sshloginfile; each job is one part, which it learns from parallel.
#   deploy/parallel.sh SHARDS NIGHT [further arguments of `guest-tests nightly`]
# More options for parallel itself, such as the machines, come in its own variable PARALLEL.
set -eu
shards=$1 night=$2
shift 2
[ $# -gt 0 ] || set -- --hours=8
program=${GUEST_TESTS:-guest-tests}
# 1 is a part with something new; what the night comes to is said by merge.
seq "$shards" | parallel --no-notice --jobs "$shards" --line-buffer --tagstring 'job {#}' --halt never -N0 \
    "$program" nightly --shards "$shards" --out "$night" "$@" || true
exec "$program" merge "$night"/shard-*-of-"$shards" --out "$night"
