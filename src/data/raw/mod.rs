//! The Deep Crown layout on disk.

/// Which value of which channel says "burns", in the fire frames and in the isochrones. Channels: 0 red, 1 green,
/// 2 blue, 3 alpha; a grey image has the same value in the first three.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoding {
    /// Channel of the fire frames.
    pub fire_channel: usize,
    /// Value that burns in the fire frames.
    pub fire_value: u8,
    /// Channel of the isochrones.
    pub isochrone_channel: usize,
    /// Value that burns in the isochrones.
    pub isochrone_value: u8,
}

impl Default for Encoding {
    /// Green 231, the green of viridis's yellow, in both.
    fn default() -> Self {
        Self { fire_channel: 1, fire_value: 231, isochrone_channel: 1, isochrone_value: 231 }
    }
}

/// What happens where a window's sides are not multiples of the patch side. Padding goes to the bottom and the right,
/// and patches that are not wholly inside the original window are invalid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PadMode {
    /// Refuse such windows.
    #[default]
    Strict,
    /// Repeat the last row and column.
    Edge,
    /// Pad with zeros: not burning, and 0 in every scaled band.
    Constant,
    /// The same as `constant`, under the name that published configurations use.
    PadToMultiple,
}

/// What the weather files' WD means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WindDirection {
    /// Where the wind comes from.
    #[default]
    From,
    /// Where the wind goes to.
    To,
}
