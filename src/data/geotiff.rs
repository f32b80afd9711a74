//! GeoTIFF reading by window and writing.
