//! The binary as a user meets it: what it writes, what it refuses, how it ends.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use report::schema::{BenchRecord, Op, Outcome, Record, ResultKind, Summary};
use report::{Observed, ResultFile, ResultWriter};

fn bench(args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rmapscope-bench"));
    command.arg("run").args(args).current_dir(folder);
    command
}

fn run(args: &[&str]) -> (Output, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let output = bench(args, folder.path()).output().unwrap();
    (output, folder)
}

/// A run small enough for an unoptimised build.
const TINY: [&str; 6] = [
    "--quick",
    "--chain-lengths=2",
    "--schemes=rwlock-write",
    "--seconds=1",
    "--rounds=6",
    "--seed=7",
];

fn cells(file: &ResultFile) -> Vec<&BenchRecord> {
    let mut cells = Vec::new();
    for record in &file.records {
        match record {
            Record::Bench(cell) => cells.push(&**cell),
            other => panic!("not a bench record: {other:?}"),
        }
    }
    cells
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Refused with status 2 and one sentence, before anything was written.
fn assert_refused(args: &[&str], words: &[&str]) {
    let (output, folder) = run(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
    assert!(words.iter().all(|w| text.contains(w)), "{args:?}: {text}");
    assert_eq!(folder.path().read_dir().unwrap().count(), 0, "{args:?}");
}

#[test]
fn a_tiny_walk_reads_back_complete_and_prints_its_tables() {
    let (output, folder) = run(&[&["walk", "--output=out/walk.jsonl"][..], &TINY[..]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let file = ResultFile::read(&folder.path().join("out/walk.jsonl")).unwrap();
    assert_eq!(
        (file.context.kind, file.end.outcome),
        (ResultKind::Bench, Outcome::Complete)
    );
    let cells = cells(&file);
    // A quick run has chains of 2 with one page and all young: test_age and age.
    assert_eq!(cells.len(), 2);
    for cell in &cells {
        assert_eq!(
            (cell.workload.as_str(), cell.scheme.as_str()),
            ("walk", "rwlock-write")
        );
        assert_eq!(cell.params.chain_len, Some(2));
        assert_eq!(cell.rounds.len(), 6);
        assert!(
            cell.summary
                .value()
                .is_some_and(|s| s.median > 0.0 && s.ci95_low.is_some())
        );
        assert!(cell.params.working_set_bytes.is_some_and(|b| b > 0));
        assert_eq!(cell.params.placement.as_deref(), Some("listed"));
        assert_eq!(cell.params.numa_nodes, bench::memory::nodes());
        let counted = |name: &str| {
            cell.counters.contains_key(name) != file.context.missing_counters.contains_key(name)
        };
        assert!(bench::counters::names().all(counted), "{:?}", cell.counters);
    }
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("walk: age, ns per callback"), "{table}");
    assert!(
        table.contains("rwlock-write") && table.contains("100 % young"),
        "{table}"
    );
}

#[test]
fn interference_gives_latencies_with_their_control() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: interference needs two CPUs");
        return;
    }
    // Time enough for every thread to get a CPU where others want it too.
    let mut args = vec!["interference", "--json", "--output=c.jsonl"];
    args.extend(["--chain-lengths=1", "--seconds=6"]);
    let own = |arg: &&&str| !arg.starts_with("--chain") && !arg.starts_with("--seconds");
    args.extend(TINY.iter().filter(own));
    let (output, folder) = run(&args);
    assert!(output.status.success(), "{}", stderr(&output));
    let path = folder.path().join("c.jsonl");
    assert_eq!(output.stdout, std::fs::read(&path).unwrap());
    let file = ResultFile::read(&path).unwrap();
    let find = |op, aging: &str, load: Option<&str>| {
        cells(&file).into_iter().find(|c| {
            c.op == op
                && c.params.chain_len == Some(1)
                && c.params.aging.as_deref() == Some(aging)
                && c.params.load.as_deref() == load
                && (op == Op::Age || c.latency.is_some())
        })
    };
    for aging in ["none", "periodic", "back_to_back"] {
        for load in ["paced", "closed_loop"] {
            let cell = find(Op::Fault, aging, Some(load)).unwrap();
            let fault = cell.latency.as_ref().unwrap().summary();
            assert!(fault.count > 30 && fault.p50_ns <= fault.p99_ns);
        }
    }
    assert!(find(Op::Age, "back_to_back", None).is_some());
    assert!(find(Op::Age, "none", Some("paced")).is_none());
}

#[test]
fn the_stored_command_repeats_the_run() {
    let mut args = vec!["walk", "--output=w.jsonl"];
    args.extend(
        TINY.iter()
            .filter(|a| !a.starts_with("--seed") && !a.starts_with("--rounds")),
    );
    args.push("--rounds=1");
    let (output, folder) = run(&args);
    let file = ResultFile::read(&folder.path().join("w.jsonl")).unwrap();
    let command = &file.context.command;
    assert_eq!(command[0], "rmapscope-bench");
    let seed = command.iter().position(|word| word == "--seed").unwrap();
    let said = stderr(&output);
    assert!(said.contains(&format!("seed {}", command[seed + 1])));
    // What else the figures depend on: the clock, and CPUs that change their speed.
    let clock = bench::clock::Clock::calibrate().source();
    assert!(said.contains(&format!("clock: {clock},")), "{said}");
    let usable = bench::cpus::CpuList::usable().unwrap();
    let moves = bench::frequency::warning(&usable);
    assert!(
        said.contains(moves.as_deref().unwrap_or_default()),
        "{said}"
    );
}

#[test]
fn what_does_not_exist_is_refused_with_what_does() {
    assert_refused(&["--schemes=spinlock"], &["'spinlock'", "rwlock-write"]);
    assert_refused(&["stroll"], &["'stroll'", "walk, empty"]);
    assert_refused(&["walk", "--chain-lengths=3"], &["walk", "0, 1, 2"]);
    assert_refused(&["--chain-lengths=1001"], &["1001", "0 to 1000"]);
    assert_refused(&["--rounds=0"], &["at least one round"]);
    assert_refused(&["--seconds=0"], &["--seconds"]);
    assert_refused(&["pass", "--vm-gib=0"], &["--vm-gib"]);
    assert_refused(&["pass", "--vm-gib=4096"], &["MiB", "VM of at most"]);
    // Before what would have fitted is measured.
    let late = ["writer", "pass", "--quick", "--seconds=1", "--vm-gib=4096"];
    let (output, _folder) = run(&[&late[..], &["--chain-lengths=1"]].concat());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(!said.contains("writer: started"), "{said}");
}

#[test]
fn cpu_lists_that_cannot_be_used_are_refused() {
    assert_refused(&["--cpus="], &["empty"]);
    assert_refused(&["--cpus=0,0"], &["CPU 0", "twice"]);
    assert_refused(&["--cpus=0-"], &["'0-'"]);
    assert_refused(&["--cpus=1023"], &["CPU 1023", "not online"]);
    assert_refused(&["interference", "--cpus=0"], &["2 threads", "has 1"]);
    assert_refused(&["agers", "--threads=1..4096"], &["4096 threads"]);
    assert_refused(&["agers", "--threads=none"], &["'none'", "1..4"]);
    assert_refused(
        &["interference", "--threads=1"],
        &["interference", "2 threads"],
    );
}

/// Runs the benchmark through a shell that first does something to itself.
fn shell(first: &str, args: &str, folder: &Path) -> Output {
    let binary = env!("CARGO_BIN_EXE_rmapscope-bench");
    let script = format!("{first} && exec '{binary}' run {args}");
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", &script]).current_dir(folder).output();
    output.unwrap()
}

/// The same; nothing is written.
fn run_after(first: &str, args: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let output = shell(first, args, folder.path());
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    output
}

fn assert_cpu_1_forbidden(output: &Output) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(
        text.contains("CPU 1 is forbidden") && text.contains("may use 0"),
        "{text}"
    );
}

#[test]
fn a_cpu_that_an_affinity_mask_forbids_is_refused() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: needs two CPUs");
        return;
    }
    let forbid = "taskset -cp 0 $$ >/dev/null";
    assert_cpu_1_forbidden(&run_after(forbid, "walk --cpus=0-1"));
    // Without a list only the CPU allowed is used, and that is one too few.
    let output = run_after(forbid, "agers");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("CPU list 0 has 1"),
        "{}",
        stderr(&output)
    );
}

/// A cpuset of CPU 0 alone; removed when it is dropped.
struct CpuSet(std::path::PathBuf);

impl CpuSet {
    fn new() -> std::io::Result<Self> {
        let v1 = Path::new("/sys/fs/cgroup/cpuset");
        let parent = if v1.is_dir() {
            v1
        } else {
            Path::new("/sys/fs/cgroup")
        };
        let folder = parent.join(format!("rmapscope-bench-test-{}", std::process::id()));
        std::fs::create_dir(&folder)?;
        let set = Self(folder);
        std::fs::write(set.0.join("cpuset.cpus"), "0")?;
        std::fs::write(set.0.join("cpuset.mems"), "0")?;
        Ok(set)
    }
}

impl Drop for CpuSet {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_cpu_that_a_cgroup_forbids_is_refused() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: needs two CPUs");
        return;
    }
    let set = match CpuSet::new() {
        Ok(set) => set,
        Err(error) => {
            eprintln!("skipped: no cpuset can be made: {error}");
            return;
        }
    };
    let enter = format!("echo $$ > {}/cgroup.procs", set.0.display());
    assert_cpu_1_forbidden(&run_after(&enter, "walk --cpus=0-1"));
}

#[test]
fn the_lock_asked_for_is_recorded_and_an_unknown_one_is_refused() {
    for (args, lock) in [(vec![], "queued"), (vec!["--mmu-lock=std"], "std")] {
        let (output, folder) =
            run(&[&["walk", "--output=out.jsonl"][..], &args[..], &TINY[..]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(printed.contains(&format!("mmu_lock is {lock}\n")));
        let file = ResultFile::read(&folder.path().join("out.jsonl")).unwrap();
        assert_eq!(file.context.mmu_lock.as_deref(), Some(lock));
    }
    assert_refused(&["--mmu-lock=nope"], &["nope", "parking-lot"]);
}

#[test]
fn siblings_are_asked_for_only_where_there_are_some() {
    let args = ["walk", "--placement=smt", "--output=smt.jsonl"];
    let args = [&args[..], &TINY[..]].concat();
    let (output, folder) = run(&args);
    let usable = bench::cpus::CpuList::usable().unwrap();
    if bench::topology::Placement::Smt.order(&usable).is_ok() {
        assert!(output.status.success(), "{}", stderr(&output));
        let file = ResultFile::read(&folder.path().join("smt.jsonl")).unwrap();
        let placement = |cell: &&BenchRecord| cell.params.placement.clone();
        let placement = cells(&file).first().and_then(placement);
        assert_eq!(placement.as_deref(), Some("smt"));
    } else {
        assert_refused(&args, &["two hardware threads", "another placement"]);
    }
    assert_refused(&["--placement=diagonal"], &["diagonal", "scatter"]);
}

#[test]
fn an_existing_result_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kept.jsonl"), "precious").unwrap();
    let args = [&["walk", "--output=kept.jsonl"][..], &TINY[..]].concat();
    let output = bench(&args, folder.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("exists already"));
    assert_eq!(
        std::fs::read_to_string(folder.path().join("kept.jsonl")).unwrap(),
        "precious"
    );
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

/// Starts a run and, when it has measured for a while, sends it this signal.
fn interrupted(args: &[&str], folder: &Path, signal: &str) -> Output {
    let child = bench(args, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let partial = |name: &str| name.starts_with(".rmapscope-");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        let names = folder.read_dir().unwrap().map(|e| e.unwrap().file_name());
        if names.into_iter().any(|n| partial(&n.to_string_lossy())) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    let kill = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    child.wait_with_output().unwrap()
}

fn assert_kept_and_partial(signal: &str, code: i32) {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "walk",
        "--quick",
        "--chain-lengths=2",
        "--rounds=100000",
        "--output=p.jsonl",
    ];
    let output = interrupted(&args, folder.path(), signal);
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    let file = ResultFile::read(&folder.path().join("p.jsonl")).unwrap();
    assert_eq!(file.end.outcome, Outcome::Partial);
    assert!(!cells(&file).is_empty());
    assert!(String::from_utf8_lossy(&output.stdout).contains("PARTIAL"));
    assert_eq!(folder.path().read_dir().unwrap().count(), 1);
}

#[test]
fn ctrl_c_keeps_what_was_measured_and_marks_it_partial() {
    assert_kept_and_partial("-INT", 130);
}

#[test]
fn a_run_that_is_told_to_terminate_keeps_it_too() {
    assert_kept_and_partial("-TERM", 143);
}

#[test]
fn a_workload_that_fails_does_not_lose_those_before_it() {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        eprintln!("skipped: pass needs two CPUs");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The pages of 64 GiB take 256 MiB, which the machine has and the process not.
    let args = "writer pass --quick --chain-lengths=1 --schemes=rwlock-write --seconds=1 \
                --rounds=1 --vm-gib=64 --output=p.jsonl";
    let output = shell("ulimit -v 240000", args, folder.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let file = ResultFile::read(&folder.path().join("p.jsonl")).unwrap();
    assert_eq!(file.end.outcome, Outcome::Partial);
    let reason = file.end.reason.as_deref().unwrap_or_default();
    assert!(reason.starts_with("pass failed"), "{reason}");
    let cells = cells(&file);
    assert!(!cells.is_empty() && cells.iter().all(|c| c.workload == "writer"));
}

/// A result whose costs are those of `file` times `factor`.
fn scaled(file: &ResultFile, factor: f64, path: &Path) {
    let mut writer = ResultWriter::create(path, file.context.clone()).unwrap();
    for cell in cells(file) {
        let mut cell = cell.clone();
        cell.rounds.iter_mut().for_each(|round| *round *= factor);
        cell.summary = Observed::Value(Summary::of(&cell.rounds).unwrap());
        writer.push(&Record::Bench(Box::new(cell))).unwrap();
    }
    let end = file.end.disturbance.clone();
    writer.finish(Outcome::Complete, None, end).unwrap();
}

#[test]
fn a_run_that_is_slower_than_its_baseline_ends_with_status_1() {
    let first = [&["walk", "--output=first.jsonl"][..], &TINY[..]].concat();
    let (output, folder) = run(&first);
    assert!(output.status.success(), "{}", stderr(&output));
    let file = ResultFile::read(&folder.path().join("first.jsonl")).unwrap();
    // Far enough apart for any machine: times of the same code differ by less.
    for (name, factor, code) in [("fast.jsonl", 0.01, 1), ("slow.jsonl", 100.0, 0)] {
        scaled(&file, factor, &folder.path().join(name));
        let output = format!("--output=beside-{name}");
        let mut again = [&["walk", &output][..], &TINY[..]].concat();
        again.extend(["--baseline", name, "--fail-if-slower", "500"]);
        let output = bench(&again, folder.path()).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{name}: {said}");
        assert_eq!(
            said.contains("slower than the baseline"),
            code == 1,
            "{said}"
        );
        // What was measured is kept either way.
        assert!(folder.path().join(format!("beside-{name}")).exists());
    }
    // One of another machine is refused before anything is measured.
    let mut elsewhere = ResultFile::read(&folder.path().join("first.jsonl")).unwrap();
    elsewhere.context.host.cpus_online += 1;
    scaled(&elsewhere, 1.0, &folder.path().join("elsewhere.jsonl"));
    let mut beside = [&["walk", "--output=beside.jsonl"][..], &TINY[..]].concat();
    beside.extend(["--baseline", "elsewhere.jsonl"]);
    let output = bench(&beside, folder.path()).output().unwrap();
    let said = stderr(&output);
    assert!(
        !output.status.success() && said.contains("number of CPUs"),
        "{said}"
    );
    assert!(!said.contains("walk: started"), "{said}");
    // A run that was ended early is held against nothing.
    let mut early = vec!["walk", "--output=early.jsonl", "--rounds=100000"];
    early.extend(TINY.iter().filter(|a| !a.starts_with("--rounds")));
    early.extend(["--baseline", "fast.jsonl", "--fail-if-slower", "500"]);
    let output = interrupted(&early, folder.path(), "-INT");
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
}

#[test]
fn the_list_names_workloads_and_schemes() {
    let (output, _folder) = run(&["--list"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let named = |name: &str| text.lines().any(|l| l.split(' ').nth(2) == Some(name));
    let workloads = [
        "walk",
        "empty",
        "writer",
        "pass",
        "interference",
        "agers",
        "hold",
        "memory",
        "accuracy",
    ];
    let peers = ["peer-rwlock", "peer-dashmap", "peer-papaya", "peer-scc"];
    let limits = [
        "limit-loads",
        "limit-cmpxchg",
        "limit-stream",
        "limit-transfer",
    ];
    let schemes = ["rwlock-write", "bitlock", "single-batched"];
    for name in workloads
        .iter()
        .chain(&peers)
        .chain(&limits)
        .chain(&schemes)
    {
        assert!(named(name), "{name}: {text}");
    }
}
