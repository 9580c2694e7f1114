//! `cargo xtask build-ebpf`: rebuilds the committed eBPF object, or checks it.
//!
//! Everything else in the workspace needs stable Rust alone, because the object
//! is committed. Rebuilding it needs more, all of which this module sets up by
//! itself under `target/`: bpf-linker at one version, and core's source.
//!
//! Invariant: the committed object is exactly what the sources give. A manifest
//! beside it names the sources by hash and the tools by version; with the same
//! tools a rebuild is bit-identical wherever the checkout lies.

pub(crate) mod core_source;
mod manifest;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use object::build::elf::{Builder, SectionData};

use self::{
    core_source::CoreSource,
    manifest::{Manifest, Tools},
};
use crate::{process, tools::Tool};

const LINKER: Tool = Tool {
    name: "bpf-linker",
    version: "0.10.4",
};
const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "profiler/ebpf/rmapscope.bpf.o";
const MANIFEST: &str = "profiler/ebpf/rmapscope.bpf.json";

/// Options of `cargo xtask build-ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Change nothing; fail if the committed object is not what the sources give.
    #[arg(long)]
    check: bool,
    /// With --check: compare the hashes only, without rebuilding.
    #[arg(long, requires = "check")]
    no_rebuild: bool,
}

/// Rebuilds or checks the object.
///
/// # Errors
/// If the tools cannot be set up, the build fails, or the check finds a
/// difference.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { check, no_rebuild } = *options;
    if !check {
        return rebuild();
    }
    check_hashes()?;
    if no_rebuild {
        return Ok(());
    }
    check_rebuild()
}

fn rebuild() -> Result<()> {
    let (object, tools) = build()?;
    let manifest = Manifest::new(&object, tools)?;
    let path = process::workspace().join(OBJECT);
    let folder = path.parent().context("the object's path has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(&path, &object).with_context(|| format!("cannot write {}", path.display()))?;
    manifest.write(&process::workspace().join(MANIFEST))?;
    println!(
        "{OBJECT}: {} bytes, sha256 {}",
        object.len(),
        manifest.object_sha256
    );
    Ok(())
}

/// The part of the check that needs no tools: object and sources have the
/// hashes the manifest says.
fn check_hashes() -> Result<()> {
    let manifest = Manifest::read(&process::workspace().join(MANIFEST))?;
    let object = committed_object()?;
    if manifest::sha256(&object) != manifest.object_sha256 {
        bail!("{OBJECT} is not the object that {MANIFEST} describes; run `cargo xtask build-ebpf`");
    }
    if manifest::sources_sha256()? != manifest.sources_sha256 {
        bail!(
            "the eBPF sources changed after {OBJECT} was built; run `cargo xtask build-ebpf` and commit what it writes"
        );
    }
    println!("{OBJECT} and its sources have the hashes in {MANIFEST}");
    Ok(())
}

/// The part of the check that rebuilds.
fn check_rebuild() -> Result<()> {
    let manifest = Manifest::read(&process::workspace().join(MANIFEST))?;
    let (object, tools) = build()?;
    if object == committed_object()? {
        println!("{OBJECT} is bit for bit what the sources give");
        return Ok(());
    }
    let differences = manifest.tools.differences(&tools);
    if differences.is_empty() {
        bail!(
            "{OBJECT} is not what the sources give with the same tools; run `cargo xtask build-ebpf`"
        );
    }
    println!(
        "rebuilt, but the bits cannot be compared: {}",
        differences.join("; ")
    );
    check_names(&object)
}

/// With other tools the bits differ, but the same programs and maps must be there.
fn check_names(rebuilt: &[u8]) -> Result<()> {
    let (rebuilt, committed) = (
        global_symbols(rebuilt)?,
        global_symbols(&committed_object()?)?,
    );
    if rebuilt != committed {
        bail!(
            "the rebuilt object defines other programs, maps or globals than {OBJECT}: {rebuilt:?} against {committed:?}"
        );
    }
    println!("programs, maps and globals are the same: {}", rebuilt.len());
    Ok(())
}

fn committed_object() -> Result<Vec<u8>> {
    fs::read(process::workspace().join(OBJECT))
        .with_context(|| format!("cannot read {OBJECT}; run `cargo xtask build-ebpf`"))
}

/// Names of the object's global symbols, sorted.
fn global_symbols(object: &[u8]) -> Result<Vec<String>> {
    let elf = Builder::read(object).context("not an ELF object")?;
    let mut names: Vec<String> = elf
        .symbols
        .iter()
        .filter(|symbol| symbol.st_bind() == object::elf::STB_GLOBAL && symbol.section.is_some())
        .map(|symbol| symbol.name.to_string())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Builds the stripped object with tools it sets up.
fn build() -> Result<(Vec<u8>, Tools)> {
    let linker = LINKER.installed()?;
    let core = CoreSource::find()?;
    let tools = Tools {
        rustc: core_source::rustc_version()?,
        bpf_linker: LINKER.version.to_owned(),
        core_sha256: core.sha256()?,
    };
    let target = process::workspace().join("target/ebpf");
    let mut command = process::cargo();
    command
        .args([
            "build",
            "--locked",
            "--release",
            "--package",
            "profiler-ebpf",
        ])
        .args(["--target", TARGET, "-Z", "build-std=core", "--target-dir"])
        .arg(&target)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", core.library())
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&linker, &core)?)
        // Set by the cargo that started us for its own build; they are not ours.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS");
    process::run(&mut command)?;
    let built = target.join(TARGET).join("release/profiler-ebpf");
    let object =
        fs::read(&built).with_context(|| format!("the build left no {}", built.display()))?;
    Ok((strip(&object)?, tools))
}

/// Compiler flags. Paths are mapped away, so that the object does not depend on
/// where the checkout, cargo's home or core's source lie.
fn flags(linker: &Path, core: &CoreSource) -> Result<String> {
    let mut flags = vec![
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
    ];
    let mut map = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    map(process::workspace(), "/rmapscope");
    map(core.library(), "/core");
    for registry in registries()? {
        map(&registry, "/registry");
    }
    Ok(flags.join("\x1f"))
}

/// The folders crates are unpacked in; their names hold the registry's.
fn registries() -> Result<Vec<PathBuf>> {
    let home = match std::env::var_os("CARGO_HOME") {
        Some(home) => PathBuf::from(home),
        None => std::env::home_dir()
            .context("there is no home folder")?
            .join(".cargo"),
    };
    let sources = home.join("registry/src");
    let entries = fs::read_dir(&sources)
        .with_context(|| format!("cannot list {}", sources.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    Ok(entries)
}

/// Removes DWARF, keeps BTF.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Builder::read(object).context("the linker's output is not an ELF object")?;
    for section in &mut elf.sections {
        let name = section.name.to_string();
        let of = name.strip_prefix(".rel").unwrap_or(&name);
        section.delete |= of.starts_with(".debug_");
    }
    elf.delete_orphans();
    // LLVM keeps section names in `.strtab`; the writer wants a table of their own.
    let names = elf.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)
        .context("cannot write the stripped object")?;
    Ok(stripped)
}
