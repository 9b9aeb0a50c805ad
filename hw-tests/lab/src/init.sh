#!/bin/busybox sh
# shellcheck shell=dash
# What the kernel starts: gives the host's files as the root, all of it writable in memory, and goes over to the agent.
set -e
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
while read -r module; do insmod "/modules/$module"; done </modules/order
read -r line </proc/cmdline
for word in $line; do
    case "$word" in
        lab.work=*) work="${word#lab.work=}" ;;
        lab.modules=*) modules="${word#lab.modules=}" ;;
    esac
done
shared=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$shared,ro,cache=loose" host /lower
mount -t tmpfs -o size=50% upper /upper
mkdir /upper/files /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /host
mkdir -p "/host$work" /host/lib/modules /host/proc /host/sys /host/dev /host/run
mount --bind "/host$modules" /host/lib/modules
mount -t 9p -o "$shared,cache=none" work "/host$work"
mount -t sysfs sys /host/sys
mount -t devtmpfs dev /host/dev
mkdir -p /host/dev/shm /host/dev/pts
mount -t tmpfs shm /host/dev/shm
mount -t devpts pts /host/dev/pts
mount -t tmpfs run /host/run
mount --move /proc /host/proc
exec switch_root /host /bin/bash "$work/agent.sh" "$work"
