//! How far a fetch is.

use indicatif::{ProgressBar, ProgressStyle};

/// A step of a fetch.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    /// What is being done.
    pub step: String,
    /// How much of the step is done, from 0 to 100; `None` when that is not known.
    pub percent: Option<f32>,
}

/// Draws a progress bar on standard error, when that is a terminal; otherwise nothing is printed. The bar vanishes with
/// the closure.
pub fn terminal_progress() -> impl FnMut(Progress) {
    let bar = Bar(ProgressBar::new(100));
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:30}] {percent:>3}%") {
        bar.0.set_style(style.progress_chars("=> "));
    }
    move |progress| {
        let bar = &bar;
        bar.0.set_message(progress.step);
        bar.0.set_position(progress.percent.unwrap_or(0.0).clamp(0.0, 100.0) as u64);
    }
}

struct Bar(ProgressBar);

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
