//! What the graphics card shows, as a PNG file.

use anyhow::Context;
use ringworld_machine::Machine;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

/// Writes the picture to `path`.
pub fn dump(machine: &Machine, path: &Path) -> anyhow::Result<()> {
    let screen = machine.board().screen().context("there is no graphics card: add --vga std")?;
    let what = || format!("cannot write the picture {}", path.display());
    let file = BufWriter::new(File::create(path).with_context(what)?);
    let mut encoder = png::Encoder::new(file, screen.width.max(1), screen.height.max(1));
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().with_context(what)?;
    // A card that shows nothing yet has a picture of one black point.
    let rgb = if screen.rgb.is_empty() { vec![0; 3] } else { screen.rgb };
    writer.write_image_data(&rgb).with_context(what)?;
    writer.finish().with_context(what)
}
