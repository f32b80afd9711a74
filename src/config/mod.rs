//! Typed configuration, one struct a section; errors name the line and the key.
