//! Words for the user on standard error. Who has closed it hears nothing, and the guest goes on: `eprintln!` would panic.

/// As `eprint!`.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        // Nobody is left to be told.
        let _ = write!(std::io::stderr().lock(), $($words)*);
    }};
}

/// As `eprintln!`.
macro_rules! say_line {
    () => { say!("\n") };
    ($($words:tt)*) => {{
        use std::io::Write as _;
        // Nobody is left to be told.
        let _ = writeln!(std::io::stderr().lock(), $($words)*);
    }};
}
