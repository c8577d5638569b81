//! Standard output, which may be a pipe that nobody reads any more, or a file on a full disk.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

/// Prints a line, like `println!`.
macro_rules! say {
    ($($argument:tt)*) => { $crate::print::text(format_args!("{}\n", format_args!($($argument)*))) };
}

/// Prints a text. If it cannot be written, the process ends: quietly if the reader has had enough.
pub(crate) fn text(text: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("hotpick: cannot write to standard output: {error}");
            std::process::exit(1);
        }
    }
}
