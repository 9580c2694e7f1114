//! Where CPUs lie, and putting them in order.
//!
//! Threads take the CPUs of a list in its order, so a placement is an order:
//! with `compact` the first threads are close to each other, with `scatter` far
//! apart, with `smt` on hardware threads of the same cores. Invariant: a
//! placement orders the CPUs it was given and neither adds nor drops one.

use std::fmt;
use std::path::Path;

use crate::cpus::{CpuError, CpuList};

/// Where the kernel describes CPUs.
const CPUS: &str = "/sys/devices/system/cpu";

/// In which order threads take the CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Placement {
    /// As the list names them.
    Listed,
    /// Core after core of one node after the other; the second hardware threads
    /// of the cores come last.
    Compact,
    /// The nodes in turn; the second hardware threads of the cores come last.
    Scatter,
    /// All hardware threads of a core, then those of the next.
    Smt,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listed => "listed",
            Self::Compact => "compact",
            Self::Scatter => "scatter",
            Self::Smt => "smt",
        })
    }
}

/// Where one CPU lies. What sysfs does not tell is 0 for all CPUs alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    cpu: usize,
    package: usize,
    node: usize,
    core: usize,
    /// Position among the hardware threads of its core.
    thread: usize,
}

impl Placement {
    /// Puts the CPUs in order.
    ///
    /// # Errors
    /// `smt` where no two of the CPUs are hardware threads of one core.
    pub fn order(self, cpus: &CpuList) -> Result<CpuList, CpuError> {
        self.order_by(cpus, Path::new(CPUS))
    }

    fn order_by(self, cpus: &CpuList, root: &Path) -> Result<CpuList, CpuError> {
        let mut places = places(cpus, root);
        if self == Self::Smt && places.iter().all(|p| p.thread == 0) {
            return Err(CpuError::NoSiblings(cpus.to_string()));
        }
        match self {
            Self::Listed => {}
            Self::Compact => {
                places.sort_by_key(|p| (p.thread, p.package, p.node, p.core));
            }
            Self::Scatter => {
                let turns = turns(&places);
                let mut order: Vec<_> = places.iter().zip(turns).collect();
                order.sort_by_key(|(p, turn)| (p.thread, *turn, p.package, p.node));
                places = order.into_iter().map(|(place, _)| *place).collect();
            }
            Self::Smt => places.sort_by_key(|p| (p.package, p.node, p.core, p.thread)),
        }
        CpuList::from_cpus(places.iter().map(|p| p.cpu).collect())
    }
}

/// For each CPU, how many cores of its node come before its own.
fn turns(places: &[Place]) -> Vec<usize> {
    let before = |place: &Place| {
        let same_node = |p: &&Place| (p.package, p.node) == (place.package, place.node);
        let earlier = places
            .iter()
            .filter(same_node)
            .filter(|p| p.thread == place.thread && p.core < place.core);
        earlier.count()
    };
    places.iter().map(before).collect()
}

fn places(cpus: &CpuList, root: &Path) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::with_capacity(cpus.as_slice().len());
    for &cpu in cpus.as_slice() {
        let mut place = place(cpu, root);
        let core = |p: &&Place| (p.package, p.core) == (place.package, place.core);
        place.thread = places.iter().filter(core).count();
        places.push(place);
    }
    places
}

fn place(cpu: usize, root: &Path) -> Place {
    let folder = root.join(format!("cpu{cpu}"));
    let number = |name: &str| {
        let text = std::fs::read_to_string(folder.join("topology").join(name)).ok()?;
        text.trim().parse().ok()
    };
    Place {
        cpu,
        package: number("physical_package_id").unwrap_or(0),
        node: node(&folder).unwrap_or(0),
        // Without a core number every CPU is a core of its own.
        core: number("core_id").unwrap_or(cpu),
        thread: 0,
    }
}

/// The node a CPU's folder links to.
fn node(folder: &Path) -> Option<usize> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        entry
            .file_name()
            .to_str()?
            .strip_prefix("node")?
            .parse()
            .ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two packages of two cores of two hardware threads, numbered as firmware
    /// likes to: first threads 0 to 3, second threads 4 to 7.
    fn machine() -> tempfile::TempDir {
        machine_of(8, |cpu| (cpu / 2 % 2, cpu / 2 % 2, cpu % 2))
    }

    /// CPUs of these packages, nodes and cores.
    fn machine_of(
        cpus: usize,
        place: impl Fn(usize) -> (usize, usize, usize),
    ) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for cpu in 0..cpus {
            let (package, node, core) = place(cpu);
            let folder = root.path().join(format!("cpu{cpu}"));
            std::fs::create_dir_all(folder.join("topology")).unwrap();
            std::fs::create_dir(folder.join(format!("node{node}"))).unwrap();
            let write = |name: &str, value: usize| {
                std::fs::write(folder.join("topology").join(name), format!("{value}\n")).unwrap();
            };
            write("physical_package_id", package);
            write("core_id", core);
        }
        root
    }

    fn order(placement: Placement, cpus: &str) -> Result<String, CpuError> {
        order_on(&machine(), placement, cpus)
    }

    fn order_on(
        root: &tempfile::TempDir,
        placement: Placement,
        cpus: &str,
    ) -> Result<String, CpuError> {
        let cpus = cpus.parse::<CpuList>()?;
        Ok(placement.order_by(&cpus, root.path())?.to_string())
    }

    #[test]
    fn threads_are_placed_close_far_apart_or_on_siblings() {
        assert_eq!(order(Placement::Listed, "3,0-2").unwrap(), "3,0-2");
        assert_eq!(order(Placement::Compact, "7,0-6").unwrap(), "0-2,7,4-6,3");
        assert_eq!(order(Placement::Scatter, "0-7").unwrap(), "0,2,1,3-4,6,5,7");
        assert_eq!(order(Placement::Smt, "0-7").unwrap(), "0,4,1,5,2,6,3,7");
    }

    #[test]
    fn packages_and_the_nodes_of_a_package_are_told_apart() {
        let order = |root: &_, placement| order_on(root, placement, "0-3").unwrap();
        let packages_in_turn = machine_of(4, |cpu| (cpu % 2, 0, cpu / 2));
        let nodes_in_turn = machine_of(4, |cpu| (0, cpu % 2, cpu));
        for root in [&packages_in_turn, &nodes_in_turn] {
            assert_eq!(order(root, Placement::Compact), "0,2,1,3");
            assert_eq!(order(root, Placement::Scatter), "0-3");
        }
        let node_after_node = machine_of(4, |cpu| (0, cpu / 2, cpu));
        assert_eq!(order(&node_after_node, Placement::Compact), "0-3");
        assert_eq!(order(&node_after_node, Placement::Scatter), "0,2,1,3");
    }

    #[test]
    fn siblings_are_not_invented() {
        assert_eq!(
            order(Placement::Smt, "0-3"),
            Err(CpuError::NoSiblings("0-3".to_owned()))
        );
    }

    #[test]
    fn a_machine_that_tells_nothing_keeps_every_cpu() {
        let root = tempfile::tempdir().unwrap();
        let cpus: CpuList = "2,0-1".parse().unwrap();
        for placement in [Placement::Listed, Placement::Compact, Placement::Scatter] {
            let ordered = placement.order_by(&cpus, root.path()).unwrap();
            let mut all = ordered.as_slice().to_vec();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2]);
        }
    }
}
