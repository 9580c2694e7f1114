//! What may be tried only on a machine that is ours to break: the kernel
//! matrix says so with `RMAPSCOPE_OWN_MACHINE=1`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::common::{Recording, host, rmapscope};
use guest::{Guest, GuestConfig, live};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use report::{
    ResultFile,
    schema::{Outcome, Record},
};

fn own_machine() -> Result<(), String> {
    host()?;
    match std::env::var("RMAPSCOPE_OWN_MACHINE") {
        Ok(value) if value == "1" => Ok(()),
        _ => Err("RMAPSCOPE_OWN_MACHINE=1 is not set".to_owned()),
    }
}

/// KVM's modules in the order they are loaded, with their parameters.
struct Modules(Vec<(PathBuf, Vec<String>)>);

impl Modules {
    fn loaded() -> Result<Self, String> {
        own_machine()?;
        let module = |name: &str, parameters: &[&str]| {
            let file = name.replace('_', "-");
            let path = Path::new("/modules").join(format!("{file}.ko"));
            if !path.exists() {
                return Err(format!("{} is not there", path.display()));
            }
            let parameters = parameters.iter().filter_map(|parameter| {
                let path = format!("/sys/module/{name}/parameters/{parameter}");
                let value = fs::read_to_string(path).ok()?;
                Some(format!("{parameter}={}", value.trim()))
            });
            Ok((path, parameters.collect()))
        };
        let kvm = module("kvm", &["tdp_mmu"])?;
        Ok(Self(vec![kvm, module("kvm_amd", &["npt"])?]))
    }

    fn unload(&self) -> bool {
        let unload = |name: &str| {
            let status = Command::new("rmmod").arg(name).status();
            status.expect("rmmod starts").success()
        };
        unload("kvm_amd") && unload("kvm")
    }

    fn load(&self) {
        for (path, parameters) in &self.0 {
            let status = Command::new("insmod").arg(path).args(parameters).status();
            assert!(status.expect("insmod starts").success(), "{path:?}");
        }
    }
}

/// Whatever happens to a test, KVM is there for the next.
impl Drop for Modules {
    fn drop(&mut self) {
        if !Path::new("/sys/module/kvm_amd").exists() {
            if Path::new("/sys/module/kvm").exists() {
                let _ = Command::new("rmmod").arg("kvm").status();
            }
            self.load();
        }
    }
}

/// Waits until the programs are attached; what it says later is let through.
fn await_recording(child: &mut Child) {
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut lines = said.by_ref().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("recording ")), "it ended");
    std::thread::spawn(move || {
        said.map_while(Result::ok)
            .for_each(|line| eprintln!("{line}"));
    });
}

fn interrupt(child: &Child) {
    let pid = i32::try_from(child.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("it runs");
}

#[test]
fn a_recording_waits_for_kvm_to_be_loaded() {
    let _alone = live::exclusive();
    let name = "a_recording_waits_for_kvm_to_be_loaded";
    let Some(modules) = live::where_possible(name, Modules::loaded()) else {
        return;
    };
    assert!(modules.unload(), "no VM runs");
    let without = rmapscope().arg("doctor").output().expect("it starts");
    let said = String::from_utf8_lossy(&without.stderr).into_owned();
    assert!(!without.status.success() && said.contains("KVM is not loaded"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("profile.jsonl");
    let pid = std::process::id().to_string();
    let waiting = rmapscope()
        .args([
            "record",
            "--wait",
            "--quiet",
            "--duration",
            "1s",
            "--pid",
            &pid,
        ])
        .arg("--output")
        .arg(&path)
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    std::thread::sleep(Duration::from_secs(3));
    modules.load();
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let ended = waiting.wait_with_output().expect("it ends");
    guest.stop().expect("stops");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("waiting for it"), "{said}");
    let file = ResultFile::read(&path).expect("a result file");
    assert_eq!(file.end.outcome, Outcome::Complete);
}

#[test]
fn kvm_stays_while_it_is_observed_or_the_recording_ends_and_is_kept() {
    let _alone = live::exclusive();
    let name = "kvm_stays_while_it_is_observed_or_the_recording_ends_and_is_kept";
    let Some(modules) = live::where_possible(name, Modules::loaded()) else {
        return;
    };
    for rung in ["exact", "sampled"] {
        let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("profile.jsonl");
        let mut child = rmapscope()
            .args(["record", "--duration", "100s", "--mechanism", rung])
            .arg("--output")
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        await_recording(&mut child);
        guest.stop().expect("stops");
        let unloaded = modules.unload();
        println!("{rung}: unloaded {unloaded}");
        if unloaded {
            let deadline = Instant::now() + Duration::from_secs(20);
            while child.try_wait().expect("a status").is_none() {
                assert!(Instant::now() < deadline, "it notices");
                std::thread::sleep(Duration::from_millis(100));
            }
            assert_eq!(child.wait().expect("it ended").code(), Some(1));
            modules.load();
        } else {
            interrupt(&child);
            assert_eq!(child.wait().expect("it ends").code(), Some(130));
            // kvm_amd went, kvm did not.
            drop(Modules(modules.0.clone()));
        }
        let file = ResultFile::read(&path).expect("what was recorded is kept");
        assert_eq!(file.end.outcome, Outcome::Partial);
        let reason = file.end.reason.unwrap_or_default();
        assert_eq!(reason.contains("KVM was unloaded"), unloaded, "{reason}");
    }
}

/// Brings CPU 1 back whatever happens.
struct Offline;

impl Offline {
    const SWITCH: &str = "/sys/devices/system/cpu/cpu1/online";
}

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::write(Self::SWITCH, "1");
    }
}

#[test]
fn a_cpu_that_goes_and_comes_back_does_not_disturb_a_recording() {
    let _alone = live::exclusive();
    let name = "a_cpu_that_goes_and_comes_back_does_not_disturb_a_recording";
    let able = own_machine().and_then(|()| match Path::new(Offline::SWITCH).exists() {
        true => Ok(()),
        false => Err("CPU 1 cannot be switched".to_owned()),
    });
    let Some(()) = live::where_possible(name, able) else {
        return;
    };
    let guest = Guest::start(GuestConfig::new(64, 1)).expect("the guest starts");
    let recording = Recording::start(&["--mechanism", "sampled"]);
    std::thread::sleep(Duration::from_secs(2));
    fs::write(Offline::SWITCH, "0").expect("CPU 1 goes");
    let offline = Offline;
    std::thread::sleep(Duration::from_secs(3));
    drop(offline);
    std::thread::sleep(Duration::from_secs(3));
    let ended = recording.end(Some(Signal::SIGINT));
    guest.stop().expect("stops");
    assert_eq!(ended.code, Some(130), "{}", ended.said);
    let samples = ended
        .file()
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Run(run) => Some(run.sampling.value()?.samples),
            _ => None,
        });
    assert!(samples.sum::<u64>() > 0);
}
