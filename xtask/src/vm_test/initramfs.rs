//! A root file system in memory: busybox, an init script, KVM's modules and
//! the programs under test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::kernels::Kernel;
use crate::process;

/// Modules in the order they are loaded; one that a kernel does not have is
/// left out.
const MODULES: [&str; 4] = [
    "virt/lib/irqbypass.ko",
    "arch/x86/kvm/kvm.ko",
    "drivers/crypto/ccp/ccp.ko",
    "arch/x86/kvm/kvm-amd.ko",
];
/// How distributions compress modules, and what undoes it.
const COMPRESSED: [(&str, &str); 3] = [("ko.xz", "xz"), ("ko.zst", "zstd"), ("ko.gz", "gzip")];
const FOLDERS: [&str; 10] = [
    "bin", "dev", "disk", "lib", "lib64", "modules", "proc", "sys", "tests", "tmp",
];
const INIT: &str = include_str!("init.sh");

/// An archive of files in the "newc" cpio format, which the kernel unpacks.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.files += 1;
        let size = u32::try_from(content.len()).context("a file is too large for an initramfs")?;
        let name_size = u32::try_from(name.len() + 1)?;
        let fields = [self.files, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn folder(&mut self, name: &str) -> Result<()> {
        self.add(name, 0o040_755, b"")
    }

    /// A symbolic link, its folders included.
    fn link(&mut self, name: &Path, to: &str) -> Result<()> {
        let mut parents: Vec<&Path> = name.ancestors().skip(1).collect();
        parents.reverse();
        for parent in parents {
            let parent = parent.to_string_lossy();
            let parent = parent.trim_start_matches('/');
            if !parent.is_empty() {
                self.folder(parent)?;
            }
        }
        let name = name.to_string_lossy();
        self.add(name.trim_start_matches('/'), 0o120_777, to.as_bytes())
    }

    fn program(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.add(name, 0o100_755, content)
    }

    fn end(mut self) -> Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, b"")?;
        Ok(self.bytes)
    }
}

/// What is in the initramfs of every kernel.
pub(super) struct Content {
    /// The static busybox.
    pub(super) busybox: PathBuf,
    /// Programs by name. They are put into `/bin`, and linked from where they were
    /// built, which is where the tests of their packages look for them.
    pub(super) programs: Vec<(String, PathBuf)>,
    /// Other files: path there, path here.
    pub(super) files: Vec<(String, PathBuf)>,
    /// Which tests run, by the name of the mode.
    pub(super) scripts: Vec<(&'static str, String)>,
}

/// Writes the initramfs for a kernel.
pub(super) fn write(kernel: &Kernel, content: &Content, to: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    archive.program("init", INIT.as_bytes())?;
    archive.program("bin/busybox", &read(&content.busybox)?)?;
    for (name, path) in &content.files {
        archive.program(name, &read(path)?)?;
    }
    for (mode, script) in &content.scripts {
        archive.program(&format!("tests/{mode}"), script.as_bytes())?;
    }
    let mut order = String::new();
    for module in MODULES {
        let Some(content) = module_content(&kernel.modules.join(module))? else {
            continue;
        };
        let name = Path::new(module)
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or(module);
        archive.program(&format!("modules/{name}"), &content)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.program("modules/order", order.as_bytes())?;
    for (name, path) in &content.programs {
        archive.program(&format!("bin/{name}"), &read(path)?)?;
        archive.link(path, &format!("/bin/{name}"))?;
    }
    fs::write(to, archive.end()?).with_context(|| format!("cannot write {}", to.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A module, decompressed; `None` if the kernel does not have it.
fn module_content(path: &Path) -> Result<Option<Vec<u8>>> {
    if path.exists() {
        return read(path).map(Some);
    }
    let compressed = COMPRESSED.iter().find_map(|(extension, program)| {
        let file = path.with_extension(extension);
        file.exists().then_some((file, program))
    });
    let Some((file, program)) = compressed else {
        return Ok(None);
    };
    let mut command = Command::new(program);
    command.args(["--decompress", "--stdout"]).arg(&file);
    let out = command.output().with_context(|| process::shown(&command))?;
    anyhow::ensure!(
        out.status.success(),
        "{} from: {}",
        out.status,
        process::shown(&command)
    );
    Ok(Some(out.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_aligned_and_the_archive_ends() {
        let mut archive = Archive::default();
        archive.program("init", b"abc").unwrap();
        archive.link(Path::new("/a/b/c"), "/bin/c").unwrap();
        let bytes = archive.end().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..119], b"abc");
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
