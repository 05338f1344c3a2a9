//! The slowdowns as a picture.

use crate::emulator::Emulator;
use crate::report::Report;
use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::path::Path;

const fn color(emulator: Emulator) -> RGBColor {
    match emulator {
        Emulator::Ringworld => RGBColor(0, 114, 178),
        Emulator::Qemu => RGBColor(230, 159, 0),
        Emulator::Bochs => RGBColor(153, 153, 153),
    }
}

/// Draws a bar for each benchmark and emulator, on a logarithmic axis.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    let emulators: Vec<Emulator> = report.emulators.keys().copied().collect();
    let mut rows: Vec<(String, Vec<Option<f64>>)> = report
        .programs
        .iter()
        .map(|line| {
            let slowdown = |emulator| line.guests.get(emulator).map(|cost| cost.slowdown);
            (line.name.clone(), emulators.iter().map(slowdown).collect())
        })
        .collect();
    let means = emulators.iter().map(|emulator| report.geometric_mean.get(emulator).copied()).collect();
    rows.push(("geometric mean".into(), means));
    let top = rows.iter().flat_map(|(_, values)| values.iter().flatten()).copied().fold(10.0, f64::max);
    let height = 90 + 14 * (emulators.len() as u32 + 1) * rows.len() as u32;
    let root = SVGBackend::new(path, (900, height)).into_drawing_area();
    let count = rows.len() as f64;
    let error = |error: DrawingAreaErrorKind<_>| anyhow!("cannot draw {}: {error}", path.display());
    root.fill(&WHITE).map_err(error)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Slowdown against the host (CPU time; shorter is better)", ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(120)
        .build_cartesian_2d((1.0..top * 1.3).log_scale(), 0.0..count)
        .map_err(error)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&|value| format!("{value:.0}x"))
        .draw()
        .map_err(error)?;
    let bar = 0.8 / emulators.len() as f64;
    for (which, emulator) in emulators.iter().enumerate() {
        let style = color(*emulator).filled();
        let bars = rows.iter().enumerate().filter_map(|(row, (_, values))| {
            let upper = count - row as f64 - 0.1 - bar * which as f64;
            values[which].map(|value| Rectangle::new([(1.0, upper - bar), (value.max(1.0), upper)], style))
        });
        chart
            .draw_series(bars)
            .map_err(error)?
            .label(emulator.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], style));
        let numbers = rows.iter().enumerate().filter_map(|(row, (_, values))| {
            let middle = count - row as f64 - 0.1 - bar * (which as f64 + 0.5);
            values[which].map(|value| {
                let text = if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
                EmptyElement::at((value.max(1.0), middle)) + Text::new(text, (4, -6), ("sans-serif", 11))
            })
        });
        chart.draw_series(numbers).map_err(error)?;
    }
    let names = rows.iter().enumerate().map(|(row, (name, _))| {
        EmptyElement::at((1.0, count - row as f64 - 0.5))
            + Text::new(name.clone(), (-110, -6), ("sans-serif", 12))
    });
    for name in names {
        chart.plotting_area().draw(&name).map_err(error)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .map_err(error)?;
    root.present().map_err(error)?;
    Ok(())
}
