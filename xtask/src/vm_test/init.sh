#!/bin/busybox sh
# First process of a matrix kernel: mounts, loads KVM, runs every program named
# in tests= of the kernel's command line, says how each ended, powers off.
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
mount -t ext4 /dev/nvme0n1 /disk || echo "MATRIX no disk"
ip link set lo up
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
value() { sed -n "s/.*$1=\([^ ]*\).*/\1/p" /proc/cmdline | tr , ' '; }
for module in $(cat /modules/order); do
  case $module in
    kvm.ko) parameters=$(value kvm_parameters) ;;
    kvm-amd.ko) parameters=$(value amd_parameters) ;;
    *) parameters= ;;
  esac
  insmod /modules/$module $parameters || echo "MATRIX module $module failed"
done
export TMPDIR=/disk RMAPSCOPE_LIVE_LOG=/disk/live.log RUST_BACKTRACE=1
echo "MATRIX kernel $(uname -r)"
echo "MATRIX tdp_mmu $(cat /sys/module/kvm/parameters/tdp_mmu) npt $(cat /sys/module/kvm_amd/parameters/npt)"
for test in $(value tests); do
  echo "MATRIX begin $test"
  $test --test-threads=1 --nocapture $(value filter)
  echo "MATRIX end $test $?"
done
[ -e /disk/live.log ] && sed 's/^/MATRIX live /' /disk/live.log
echo "MATRIX done"
poweroff -f
