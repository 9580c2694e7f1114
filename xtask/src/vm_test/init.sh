#!/bin/busybox sh
# First process of a matrix kernel: mounts, loads KVM, runs the tests of the mode
# that the kernel's command line names, says how each program ended and what it
# left behind, powers off.
/bin/busybox mkdir -p /sbin /usr/bin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t debugfs debug /sys/kernel/debug
mount -t tracefs trace /sys/kernel/tracing
mount -t securityfs security /sys/kernel/security
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t ext4 /dev/nvme0n1 /disk || echo "MATRIX problem: no disk"
ip link set lo up
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
value() { sed -n "s/.*$1=\([^ ]*\).*/\1/p" /proc/cmdline | tr , ' '; }
for module in $(cat /modules/order); do
  case $module in
    kvm.ko) parameters=$(value kvm_parameters) ;;
    kvm-amd.ko) parameters=$(value amd_parameters) ;;
    *) parameters= ;;
  esac
  insmod /modules/$module $parameters || echo "MATRIX problem: module $module failed"
done
# From 7.2 on DAMON looks at all memory by itself; here only the tests may.
damon_stat=/sys/module/damon_stat/parameters/enabled
[ -e $damon_stat ] && echo N > $damon_stat
export RMAPSCOPE_OWN_MACHINE=1 TMPDIR=/disk RMAPSCOPE_LIVE_LOG=/disk/live.log RUST_BACKTRACE=1
export RMAPSCOPE_KEEP=/disk/kept
mkdir $RMAPSCOPE_KEEP
echo "MATRIX kernel $(uname -r)"
echo "MATRIX tdp_mmu $(cat /sys/module/kvm/parameters/tdp_mmu) npt $(cat /sys/module/kvm_amd/parameters/npt)"
# Probed functions, kprobes, eBPF programs, VMs, cgroups and trace instances of ours.
state() {
  echo $(wc -l < /sys/kernel/tracing/enabled_functions) \
    $(wc -l < /sys/kernel/debug/kprobes/list) \
    $(grep -c 'bpf_prog_.*\[bpf\]' /proc/kallsyms) \
    $(ls -d /sys/kernel/debug/kvm/*-* 2>/dev/null | wc -l) \
    $(ls -d /sys/fs/cgroup/rmapscope-* 2>/dev/null | wc -l) \
    $(ls /sys/kernel/tracing/instances | wc -l)
}
before=$(state)
while read -r program tests <&3; do
  echo "MATRIX begin $program"
  $program --test-threads=1 --nocapture --exact $tests 3<&-
  echo "MATRIX end $program $?"
done 3< /tests/$(value mode)
[ -e /disk/live.log ] && sed 's/^/MATRIX live /' /disk/live.log
# The kernel frees programs some time after the last user has gone.
for try in 1 2 3 4 5 6 7 8 9 10; do
  after=$(state)
  [ "$before" = "$after" ] && break
  sleep 1
done
echo "MATRIX state before: $before; after: $after"
[ "$before" = "$after" ] || echo "MATRIX problem: left behind: functions, kprobes, programs, VMs, cgroups, instances were $before and are $after"
umount /disk || echo "MATRIX problem: the disk is still in use"
echo "MATRIX done"
poweroff -f
