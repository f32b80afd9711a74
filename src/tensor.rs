//! Shape, element type and storage of an array.
