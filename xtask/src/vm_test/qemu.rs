//! QEMU as a machine with emulated SVM, started on a kernel and read from.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{kernels::Kernel, modes::Mode};
use crate::{debian::PrivateApt, process};

const QEMU: &str = "qemu-system-x86_64";
/// Bookworm's own QEMU panics some of the kernels; its backport does not.
const SUITES: [&str; 2] = ["bookworm", "bookworm-backports"];

/// QEMU and busybox.
pub(super) struct Machine {
    qemu: PathBuf,
    busybox: PathBuf,
    /// Where the packages were unpacked that have QEMU's libraries and firmware; none
    /// where they are installed.
    unpacked: Option<PathBuf>,
}

/// What a boot said.
pub(super) struct Boot {
    /// All lines of the serial console.
    pub(super) console: Vec<String>,
    /// Whether the machine powered itself off.
    pub(super) finished: bool,
    /// Wall-clock time.
    pub(super) elapsed: Duration,
}

/// How a kernel is started.
pub(super) struct Setup<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: &'a Path,
    /// How KVM is configured, and whose tests are run.
    pub(super) mode: &'a Mode,
    /// Where files go that the tests kept.
    pub(super) keep: Option<PathBuf>,
    /// Where the console goes as it is written, with the seconds since the start.
    pub(super) log: &'a Path,
    /// Without a line on the console for this long, the machine hangs.
    pub(super) silence: Duration,
    /// No boot may take longer.
    pub(super) timeout: Duration,
}

impl Machine {
    /// Fetches and unpacks QEMU, the libraries it needs and busybox, unless
    /// they are there.
    pub(super) fn fetch() -> Result<Self> {
        let folder = process::workspace().join("target/vm-test/qemu");
        if !folder.exists() {
            eprintln!("fetching QEMU from Debian's {}", SUITES[1]);
            let apt = PrivateApt::new("qemu", &SUITES)?;
            let mut simulate = apt.command("apt-get");
            simulate.args([
                "--simulate",
                "--no-install-recommends",
                "--target-release",
                SUITES[1],
            ]);
            let plan = process::output(simulate.args(["install", "qemu-system-x86"]))?;
            let mut packages = to_install(&plan);
            packages.extend(["qemu-system-x86", "qemu-system-data", "seabios"].map(str::to_owned));
            packages.sort();
            packages.dedup();
            let packages: Vec<String> = packages
                .into_iter()
                .map(|p| format!("{p}/{}", SUITES[1]))
                .collect();
            let partial = folder.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            let (backports, rest) = split_by_suite(&apt, &packages)?;
            apt.unpack(&backports, &partial)?;
            apt.unpack(&rest, &partial)?;
            apt.unpack(&["busybox-static".to_owned()], &partial)?;
            fs::rename(&partial, &folder)?;
        }
        Ok(Self {
            qemu: folder.join("usr/bin").join(QEMU),
            busybox: folder.join("bin/busybox"),
            unpacked: Some(folder),
        })
    }

    /// What the search path has, where Debian's packages cannot be fetched.
    pub(super) fn of_host() -> Result<Self> {
        let find = |program: &str, package: &str| {
            process::found_on_path(program).with_context(|| {
                format!("there is no {program} on this host: install {package}, QEMU from 10 on")
            })
        };
        let busybox = find("busybox", "a statically linked busybox and QEMU")?;
        let bytes =
            fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
        if needs_a_loader(&bytes) {
            bail!(
                "{} is linked dynamically, and the machine has no libraries: install a static \
                 busybox",
                busybox.display()
            );
        }
        Ok(Self {
            qemu: find(QEMU, "it")?,
            busybox,
            unpacked: None,
        })
    }

    /// The static busybox.
    pub(super) fn busybox(&self) -> &Path {
        &self.busybox
    }

    /// Boots a kernel and reads its console until it powers off, hangs for
    /// too long, or we are interrupted.
    pub(super) fn boot(&self, setup: &Setup<'_>) -> Result<Boot> {
        let disk = tempfile::Builder::new()
            .prefix("rmapscope-disk-")
            .tempfile()?;
        disk.as_file().set_len(512 << 20)?;
        process::output(
            Command::new("mkfs.ext4")
                .args(["-q", "-F"])
                .arg(disk.path()),
        )?;
        let begin = Instant::now();
        let mut command = self.command(setup, disk.path());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start: {}", process::shown(&command)))?;
        let result = read_console(&mut child, setup);
        let _ = child.kill();
        let _ = child.wait();
        let (console, finished) = result?;
        if let (Some(folder), true) = (&setup.keep, finished) {
            copy_kept(disk.path(), folder)?;
        }
        Ok(Boot {
            console,
            finished,
            elapsed: begin.elapsed(),
        })
    }

    fn command(&self, setup: &Setup<'_>, disk: &Path) -> Command {
        let mut command = Command::new(&self.qemu);
        if let Some(folder) = &self.unpacked {
            let at = |part: &str| folder.join(part);
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(at);
            if let Ok(path) = std::env::join_paths(&libraries) {
                command.env("LD_LIBRARY_PATH", path);
            }
            command
                .arg("-L")
                .arg(at("usr/share/qemu"))
                .arg("-L")
                .arg(at("usr/share/seabios"));
        }
        command.args([
            "-accel",
            "tcg,thread=multi",
            "-machine",
            "q35",
            "-cpu",
            "EPYC,+svm,+npt",
        ]);
        command.args(["-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(&setup.kernel.image);
        command.arg("-initrd").arg(setup.initramfs);
        command.arg("-drive").arg(format!(
            "file={},if=none,id=disk,format=raw",
            disk.display()
        ));
        command.args(["-device", "nvme,serial=rmapscope,drive=disk"]);
        command.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr no_timer_check \
             random.trust_cpu=on rdinit=/init kvm_parameters={} amd_parameters={} mode={}",
            setup.mode.kvm, setup.mode.amd, setup.mode.name
        ));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }
}

/// Whether a program names a loader of shared libraries (the ELF segment INTERP, which is
/// near its beginning).
fn needs_a_loader(program: &[u8]) -> bool {
    let start = &program[..program.len().min(4096)];
    [&b"/ld-linux"[..], b"/ld-musl"]
        .iter()
        .any(|name| start.windows(name.len()).any(|bytes| bytes == *name))
}

/// Copies the files in the folder `kept` of the machine's disk, which is unmounted.
fn copy_kept(disk: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // debugfs makes the folder itself, and fails without saying so if there is one already.
    let fresh = tempfile::Builder::new()
        .prefix("kept-")
        .tempdir_in(folder)?;
    let request = format!("rdump kept {}", fresh.path().display());
    process::output(Command::new("debugfs").args(["-R", &request]).arg(disk))?;
    let kept = fresh.path().join("kept");
    let entries = fs::read_dir(&kept)
        .with_context(|| format!("debugfs found no folder kept in {}", disk.display()))?;
    for entry in entries {
        let entry = entry?;
        fs::rename(entry.path(), folder.join(entry.file_name()))?;
    }
    Ok(())
}

/// Packages a simulated installation would install.
fn to_install(plan: &str) -> Vec<String> {
    let lines = plan.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect()
}

/// Those of `name/suite` that the suite has, and the names of the others.
fn split_by_suite(apt: &PrivateApt, packages: &[String]) -> Result<(Vec<String>, Vec<String>)> {
    let (mut there, mut elsewhere) = (Vec::new(), Vec::new());
    for package in packages {
        let name = package.split('/').next().unwrap_or(package);
        let known = process::output(apt.command("apt-cache").args(["madison", name]))?;
        if known.lines().any(|line| line.contains(SUITES[1])) {
            there.push(package.clone());
        } else {
            elsewhere.push(name.to_owned());
        }
    }
    Ok((there, elsewhere))
}

/// All lines of the console, and whether the machine came to its end by itself.
/// How long it may take is a matter of how loaded the host is, so silence is
/// what ends a boot first.
fn read_console(child: &mut Child, setup: &Setup<'_>) -> Result<(Vec<String>, bool)> {
    let mut log = fs::File::create(setup.log)
        .with_context(|| format!("cannot write {}", setup.log.display()))?;
    let stdout = child.stdout.take().context("QEMU has no standard output")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let begin = Instant::now();
    let deadline = begin + setup.timeout;
    let mut last_line = Instant::now();
    let mut console = Vec::new();
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                last_line = Instant::now();
                writeln!(log, "{:7.2} {line}", begin.elapsed().as_secs_f64())?;
                console.push(line);
            }
            Err(mpsc::RecvTimeoutError::Timeout) if process::interrupted() => bail!("interrupted"),
            Err(mpsc::RecvTimeoutError::Timeout)
                if Instant::now() < deadline && last_line.elapsed() < setup.silence => {}
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok((console, false)),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let finished = console.iter().any(|line| line == "MATRIX done");
                return Ok((console, finished));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_hosts_own_libraries_needs_a_loader() {
        let shell = fs::read("/bin/sh").unwrap();
        assert!(needs_a_loader(&shell));
        assert!(!needs_a_loader(b"\x7fELF"));
    }
}
