//! The kernel stacks that no caller class explains.

use crate::{
    ResultFile,
    schema::{Record, StackRecord},
    table::{Column, Table, count},
    terminal,
};

/// Stacks shown.
const SHOWN: usize = 5;
/// Frames shown of each, from the callback on.
const FRAMES: usize = 12;

/// The most frequent ones, innermost function first.
pub(super) fn table(file: &ResultFile) -> Table {
    let columns = vec![
        Column::text("caller"),
        Column::number("taken"),
        Column::text("stack, innermost first"),
    ];
    let mut table = Table::new("Stacks that no caller class explains", columns);
    let mut stacks: Vec<&StackRecord> = file
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Stack(stack) => Some(stack),
            _ => None,
        })
        .collect();
    stacks.sort_by_key(|stack| std::cmp::Reverse(stack.count));
    for stack in stacks.into_iter().take(SHOWN) {
        table.row(vec![
            stack.caller.to_string(),
            count(stack.count),
            terminal::harmless(&path(&stack.frames)).into_owned(),
        ]);
    }
    table
}

/// The part of a stack that tells who called: what is below the notifier.
fn path(frames: &[String]) -> String {
    let is_notifier = |frame: &String| frame.contains("mmu_notifier");
    let last = frames.iter().rposition(is_notifier);
    let first = last.unwrap_or(0);
    let shown: Vec<&str> = frames[first..]
        .iter()
        .take(FRAMES)
        .map(String::as_str)
        .collect();
    shown.join(" < ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_shown_from_its_outermost_notifier_on() {
        let frames = [
            "kvm_age",
            "kvm_mmu_notifier_x",
            "__mmu_notifier_x",
            "a",
            "b",
        ];
        assert_eq!(path(&frames.map(str::to_owned)), "__mmu_notifier_x < a < b");
        assert_eq!(path(&["a".to_owned()]), "a");
        assert_eq!(path(&[]), "");
    }
}
