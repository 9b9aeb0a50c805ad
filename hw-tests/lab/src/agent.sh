#!/bin/bash
# Runs what the host asks for over the second serial port. A line `run N` starts jobs/N.sh in a session of its own, whose
# output goes to jobs/N.out and jobs/N.err; its end is told as `done N STATUS`; what it left running ends with it.
# `kill N` ends both now, if N is still under way.
jobs="$1/jobs"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C
cd "$1" || exit 1
exec 3<>/dev/ttyS1 </dev/null
stty -F /dev/ttyS1 raw -echo
modprobe -a virtio_rng virtio_net
ip link set lo up
hostname "$(basename "$1")"

end_group() {
    [[ ! -e $1.pid ]] || kill -KILL -- "-$(<"$1.pid")" 2>/dev/null
}

# Whoever kills leaves a note first and looks for the number then; whoever runs does it the other way round, so neither is
# missed.
perform() {
    local job="$jobs/$1" status
    # shellcheck disable=SC2016
    setsid bash -c 'echo $$ >"$1.pid"; [[ ! -e $1.end ]] || exit; exec bash "$1.sh" >"$1.out" 2>"$1.err" 3>&-' job "$job"
    status=$?
    end_group "$job"
    rm -f "$job.pid"
    echo "done $1 $status" >&3
}

echo ready >&3
while read -r verb job <&3; do
    case "$verb" in
        run) perform "$job" & ;;
        kill) : >"$jobs/$job.end"; end_group "$jobs/$job" ;;
    esac
done
