//! Starting programs: every failing one is reported with its whole command
//! line, and none outlives an interrupted xtask.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::report::schema::{Context, ResultKind};
use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

/// The exit status of a program that was asked to stop by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// The signal that asked xtask to stop, 0 if none did.
fn signalled() -> &'static Arc<AtomicUsize> {
    static FLAG: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
    FLAG.get_or_init(|| Arc::new(AtomicUsize::new(0)))
}

/// From now on SIGINT, SIGTERM and SIGHUP are noted and passed on to the
/// running child, which cleans up; xtask then stops by itself.
pub(crate) fn catch_signals() -> Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        let number = usize::try_from(signal)?;
        signal_hook::flag::register_usize(signal, Arc::clone(signalled()), number)
            .context("cannot install signal handlers")?;
    }
    Ok(())
}

/// Whether xtask was asked to stop.
pub(crate) fn interrupted() -> bool {
    signalled().load(Ordering::Relaxed) != 0
}

/// The command line, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<String> = words.map(|w| quoted(&w.to_string_lossy())).collect();
    words.join(" ")
}

fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains(|c: char| c.is_whitespace() || "'\"$\\;&|<>*?".contains(c))
    {
        return format!("'{}'", word.replace('\'', "'\\''"));
    }
    word.to_owned()
}

/// Waits for a child; a signal that asks xtask to stop is passed on to it.
pub(crate) fn wait(child: &mut Child) -> Result<ExitStatus> {
    let mut passed_on = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let signal = signalled().load(Ordering::Relaxed);
        // The terminal sends SIGINT to the whole process group by itself.
        if signal != 0 && !passed_on && signal != signal_hook::consts::SIGINT as usize {
            let _ = kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM);
            passed_on = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program to its end with xtask's own standard streams.
pub(crate) fn status(command: &mut Command) -> Result<ExitStatus> {
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start: {}", shown(command)))?;
    wait(&mut child)
}

/// Runs a program that must succeed.
///
/// # Errors
/// If it cannot be started or ends with another status than 0; the message
/// has the whole command line.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if status.success() {
        return Ok(());
    }
    bail!("{status} from: {}", shown(command))
}

/// Runs a program that must succeed and returns what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let out = command
        .output()
        .with_context(|| format!("cannot start: {shown}"))?;
    if !out.status.success() {
        bail!(
            "{} from: {shown}\n{}",
            out.status,
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The cargo that started us, in the workspace's folder.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// The workspace's folder.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// Builds the workspace's programs with optimisation and returns the path of one.
///
/// All of them in one go, always: cargo gives shared dependencies the features of the
/// packages it is asked for, and builds them anew when these are others.
pub(crate) fn build(program: &str) -> Result<PathBuf> {
    let mut built = executables(&mut programs())?;
    built
        .remove(program)
        .with_context(|| format!("cargo built no program {program}"))
}

/// The command that builds the workspace's programs with optimisation.
pub(crate) fn programs() -> Command {
    let mut command = cargo();
    command.args(["build", "--release", "--bins"]);
    for package in ["bench", "profiler", "guest"] {
        command.args(["--package", package]);
    }
    command
}

/// Runs a cargo command that builds, and returns every executable it made by
/// target name.
pub(crate) fn executables(command: &mut Command) -> Result<BTreeMap<String, PathBuf>> {
    command
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped());
    let shown = shown(command);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start: {shown}"))?;
    let stdout = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut built = BTreeMap::new();
    for line in BufReader::new(stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
        let target = message["target"]["name"].as_str();
        if let (Some(name), Some(path)) = (target, message["executable"].as_str()) {
            built.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    let status = wait(&mut child)?;
    if !status.success() {
        bail!("{status} from: {shown}");
    }
    Ok(built)
}

/// The context of a result that xtask writes itself: its command as the user typed
/// it, this revision, and the programs it starts, which are built with optimisation.
pub(crate) fn own_context(kind: ResultKind) -> Context {
    let mut context = ::report::host::context(kind);
    context
        .command
        .splice(0..1, ["cargo".to_owned(), "xtask".to_owned()]);
    context.tool.optimised = true;
    let revision = git_revision();
    if !revision.is_empty() {
        context.tool.git_revision = revision.into();
    }
    context
}

/// Whether xtask runs as root.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

/// A command that runs `program` as root: itself if we are root, through sudo
/// (which asks on the terminal) if not.
///
/// # Errors
/// If we are not root and there is no sudo.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if !on_path("sudo") {
        bail!("profiling needs root and there is no sudo on this host; run this command as root");
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    Ok(command)
}

/// Whether there is a program of this name on the search path.
pub(crate) fn on_path(program: &str) -> bool {
    found_on_path(program).is_some()
}

/// Where the search path has a program.
pub(crate) fn found_on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// The git revision of the tree, `-dirty` appended if it has changes outside
/// of `results/`; empty without git.
pub(crate) fn git_revision() -> String {
    let output = |args: &[&str]| {
        let out = Command::new("git")
            .current_dir(workspace())
            .args(args)
            .output()
            .ok()?;
        out.status
            .success()
            .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let Some(revision) = output(&["rev-parse", "--short=12", "HEAD"]) else {
        return String::new();
    };
    let changes = output(&["status", "--porcelain", "--", ":!results"]).unwrap_or_default();
    if changes.is_empty() {
        revision
    } else {
        format!("{revision}-dirty")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_reported_with_its_whole_command_line() {
        let error = run(Command::new("false").args(["a b", "c"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("false 'a b' c") && error.contains("exit status: 1"),
            "{error}"
        );
        let error = run(&mut Command::new("no-such-program"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("cannot start: no-such-program"), "{error}");
    }
}
