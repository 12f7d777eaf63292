#!/bin/sh
# A night as a Slurm job array: each task is one part of it, which it learns from Slurm. All are given the same --out.
#   sbatch --array=0-7 deploy/slurm-array.sh NIGHT [further arguments of `guest-tests nightly`]
#   sbatch --dependency=afterany:JOBID --wrap 'guest-tests merge NIGHT/shard-* --out NIGHT'
#SBATCH --job-name=guest-tests-nightly
#SBATCH --cpus-per-task=2
#SBATCH --mem=3G
#SBATCH --time=09:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -eu
night=$1
shift
# What comes two minutes before the limit goes to this shell: `exec` makes it the night's, which then ends with a report.
exec "${GUEST_TESTS:-guest-tests}" nightly --out "$night" "${@:---hours=8}"
