//! Hosts that are not x86-64 Linux: there is no silicon to ask.

use crate::case::{Case, Outcome};

/// Cannot be made.
pub enum Native {}

impl Native {
    /// Says why not.
    pub fn new() -> anyhow::Result<Self> {
        anyhow::bail!("native cases run on x86-64 Linux only")
    }

    /// Never called.
    pub fn confined(&self, _: &Case) -> Case {
        match *self {}
    }

    /// Never called.
    pub fn run(&mut self, _: &Case) -> Outcome {
        match *self {}
    }

    /// Never called.
    pub fn window(&self) -> Vec<u8> {
        match *self {}
    }
}
