//! Printing for people: readers that go away, names that come from elsewhere.

use std::{
    borrow::Cow,
    fmt::{Arguments, Write as _},
    io::{self, ErrorKind, IsTerminal as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
};

/// Prints a line to standard output. A reader that has gone away (`| head`) has
/// what it wanted: that is no error.
///
/// # Errors
/// If the output cannot be written for another reason.
pub fn print(text: Arguments<'_>) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            READER_GONE.store(true, Ordering::Relaxed);
            Ok(())
        }
        result => result
            .map_err(|e| io::Error::new(e.kind(), format!("cannot write to standard output: {e}"))),
    }
}

/// Columns and lines of the terminal that standard output is; `None` if it is none, or does
/// not say.
pub fn size() -> Option<(usize, usize)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&stdout).ok()?;
    let (columns, lines) = (usize::from(size.ws_col), usize::from(size.ws_row));
    (columns > 0 && lines > 0).then_some((columns, lines))
}

static READER_GONE: AtomicBool = AtomicBool::new(false);

/// Whether the reader of standard output was found gone: what prints for ever
/// has nobody to print for then.
pub fn reader_is_gone() -> bool {
    READER_GONE.load(Ordering::Relaxed)
}

/// Prints a line to standard error. What cannot be said there is dropped: no
/// work is lost over it.
pub fn say(text: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// [`terminal::print`](crate::terminal::print) with a format string.
#[macro_export]
macro_rules! out {
    ($($part:tt)*) => { $crate::terminal::print(format_args!($($part)*)) };
}

/// [`terminal::say`](crate::terminal::say) with a format string.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { $crate::terminal::say(format_args!($($part)*)) };
}

/// The text with everything escaped that could move a cursor, change a colour
/// or turn the direction of writing: names of processes and results of others
/// are printed to the terminals of administrators.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_harmful(c) {
            // Writing to a String cannot fail.
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// [`harmless`], with the ends of its lines kept: an error may quote another program.
pub fn harmless_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(harmless).collect();
    lines.join("\n")
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_direction_marks_are_shown_and_not_obeyed() {
        assert_eq!(harmless("e\x1b[31mX"), "e\\u{1b}[31mX");
        assert_eq!(harmless("a\u{202e}b\n"), "a\\u{202e}b\\u{a}");
        assert_eq!(harmless_lines("a\x1b\nb\r\n"), "a\\u{1b}\nb\\u{d}\n");
        assert!(matches!(harmless("±5 µs, qemu-kvm"), Cow::Borrowed(_)));
    }
}
