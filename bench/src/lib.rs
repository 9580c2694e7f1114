//! rmapscope's benchmark suite: what each lock scheme costs, alone and under
//! contention.
//!
//! A [`workload`] names its cells: a scheme with one set of parameters. The
//! [`runner`] measures every cell once per round, in a new random order each
//! round, so that whatever drifts (frequency, neighbours, memory layout) falls
//! on all of them alike and ratios can be taken within one run. Nothing here
//! knows one scheme from another: schemes, peers and limits come from one registry
//! and are only ever a name and a box.
//!
//! | module | what is in it |
//! |---|---|
//! | [`workload`] | the trait, the registry and the pieces of a cell |
//! | [`workloads`] | one file per workload |
//! | [`subject`] | the registry of schemes, [`peers`] and physical [`limits`] |
//! | [`plan`] | what was asked for: scale, schemes, CPUs, rounds, seed, time |
//! | [`runner`] | rounds, interleaving, records |
//! | [`team`] | pinned threads between a start and an end barrier |
//! | [`duty`] | who is still at work |
//! | [`baseline`] | comparison with an older run |
//! | [`clock`] | the TSC, what reading it costs |
//! | [`counters`] | perf events, or the reason why not |
//! | [`disturb`] | who else used our CPUs |
//! | [`cpus`] | CPU lists and pinning |
//! | [`topology`] | where CPUs lie; placements |
//! | [`thread_counts`] | how many threads scaling workloads use |
//! | [`memory`] | cache sizes, and what working sets fit |
//! | [`mmu_lock`] | which lock mmu_lock is |
//! | [`frequency`] | whether the CPUs' frequency moves |
//! | [`heap`] | counting what is allocated |
//! | [`progress`] | remaining time |
//! | [`self_test`] | whether the statistics see what is there, and only that |
//! | [`signals`] | Ctrl-C |
//! | [`stress`](mod@stress) | every operation at full speed, checked; measures nothing |
//! | [`replay`] | a recorded host under every scheme |
//! | `run_args`, `run` | what `run` was asked for, and doing it |
//! | [`cli`] | the command line |

pub mod baseline;
pub mod cli;
pub mod clock;
pub mod counters;
pub mod cpus;
pub mod disturb;
pub mod duty;
pub mod eviction;
pub mod frequency;
pub mod heap;
pub mod huge_pages;
pub mod limits;
pub mod memory;
pub mod mmu_lock;
pub mod peers;
pub mod plan;
pub mod progress;
pub mod replay;
pub mod rng;
mod run;
mod run_args;
pub mod runner;
pub mod self_test;
pub mod signals;
pub mod stress;
pub mod subject;
pub mod team;
pub mod thread_counts;
pub mod topology;
pub mod workload;
pub mod workloads;
