//! A picture of what a graphics card shows.

/// A picture.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Screen {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Red, green and blue of each pixel, row by row from the top.
    pub rgb: Vec<u8>,
}
