//! rmapscope's eBPF programs.
//!
//! | program | type | what it does |
//! |---|---|---|
//! | `rs_vms`, `rs_heads` | iter/task_file | find VMs and their memslots; read rmap heads |
//! | `rs_tables` | iter/task_file | walk the TDP MMU's tables |
//! | `rs_age_hva`, `rs_test_age_hva` | raw tracepoint | sampled rung: count callbacks by chain length |
//! | `rs_sample` | perf_event | sampled rung: file cpu-clock samples under the running callback |
//! | `rs_c*`, `rs_ty*`, `rs_inner*` | fentry, fexit, kprobe | exact rung: time every callback |
//! | `rs_fault_*`, `rs_wait_*` | fentry, fexit, kprobe, kretprobe, raw tracepoint | vCPU faults, and waits for `mmu_lock` |
//!
//! Invariants: kernel memory is read with `bpf_probe_read_kernel` only, so a
//! stale pointer is a counted fault and never a wrong zero; every loop is
//! bounded; no program ever changes what the kernel does. Only user space of
//! the same build may load this object: it fills in every global.
#![no_std]
#![no_main]

mod callback;
mod caller;
mod chain;
mod exact;
mod heads;
mod interference;
mod kernel;
mod latency;
mod sampled;
mod tables;
mod vms;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
